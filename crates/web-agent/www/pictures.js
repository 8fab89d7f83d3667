// Pictures that a person drops, picks or pastes.

import { LARGEST } from "./messages.js";

/** Longest side of a picture that the browser makes of one that the network does not read. */
const SIDE = 1600;

/** Has `take(files)` called with what comes by `input`, onto `stage` or from the clipboard. */
export function listen(input, stage, take) {
  input.onchange = () => {
    take([...input.files]);
    // The same file may be chosen again.
    input.value = "";
  };
  for (const [name, isOver] of [["dragover", true], ["dragleave", false], ["drop", false]])
    addEventListener(name, event => {
      if (![...event.dataTransfer.types].includes("Files")) return;
      event.preventDefault();
      stage.classList.toggle("over", isOver);
      if (name === "drop" && event.dataTransfer.files.length) take([...event.dataTransfer.files]);
    });
  addEventListener("paste", event => {
    const files = [...event.clipboardData.files];
    if (files.length) take(files);
  });
}

/** A picture that cannot be asked about; `code` and `details` are those of a message. */
export class Refused extends Error {
  constructor(code, details) {
    super(code);
    this.code = code;
    this.details = details;
  }
}

const starts = (bytes, at, text) => [...text].every((letter, i) => bytes[at + i] === letter.charCodeAt(0));
const isRead = bytes => starts(bytes, 0, "\xff\xd8\xff") || starts(bytes, 0, "\x89PNG") || (starts(bytes, 0, "RIFF") && starts(bytes, 8, "WEBP"));

/** The bytes that the agent is asked about: those of the file, or where only the browser reads it, a JPEG of it. */
export async function read(file) {
  const name = file.name || "picture";
  if (file.size > LARGEST) throw new Refused("too-large", { name, size: file.size });
  let bytes;
  try { bytes = new Uint8Array(await file.arrayBuffer()); } catch (error) { throw new Refused("not-an-image", { name, error: `It cannot be read: ${error.message}.` }); }
  return isRead(bytes) ? bytes : asJpeg(file, name);
}

/** A JPEG that the browser makes of what it reads. */
export async function asJpeg(file, name) {
  let picture;
  try { picture = await createImageBitmap(file); } catch { throw new Refused("not-an-image", { name, error: "This browser cannot read it." }); }
  const shrink = Math.min(1, SIDE / Math.max(picture.width, picture.height));
  const canvas = Object.assign(document.createElement("canvas"), { width: Math.round(picture.width * shrink), height: Math.round(picture.height * shrink) });
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  picture.close();
  const blob = await new Promise(done => canvas.toBlob(done, "image/jpeg", 0.95));
  return new Uint8Array(await blob.arrayBuffer());
}
