// Has the browser keep the page, so that it opens without a network, and install it where the person likes.

import { notice } from "./notices.js";

/** All of the page is read and digested to be kept: not while the first picture may be on its way. */
const AFTER_MS = 2000;

/** Registers the service worker, and has it look for a newer page; a while after this is called. */
export function keepPage() { setTimeout(keep, AFTER_MS); }

async function keep() {
  if (!navigator.serviceWorker) return;
  try {
    navigator.serviceWorker.onmessage = ({ data }) => {
      if (data === "update") notice("update", {}, { text: "Load it", do: () => location.reload() });
      if (data?.notKept) notice("not-kept", { error: data.notKept });
    };
    const { installing } = await navigator.serviceWorker.register("sw.js");
    if (installing) installing.onstatechange = () => installing.state === "redundant" && notice("not-kept", { error: "Not all of it could be fetched and stored." });
    const { active } = await navigator.serviceWorker.ready;
    active.postMessage("look");
  } catch (error) { notice("not-kept", { error: error.message }); }
  // Of an installed page the browser then clears nothing by itself. Of others some browsers would ask the person first.
  if (matchMedia("(display-mode: standalone)").matches) await navigator.storage?.persist?.().catch(() => false);
}

/** Shows `button` where the browser would install the page, and has it do so. */
export function offerInstall(button) {
  addEventListener("beforeinstallprompt", event => {
    event.preventDefault();
    button.hidden = false;
    button.onclick = async () => {
      await event.prompt();
      button.hidden = true;
    };
  });
  addEventListener("appinstalled", () => (button.hidden = true));
}
