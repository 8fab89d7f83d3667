// Has the browser keep the page, so that it opens without a network.

import { notice } from "./notices.js";

/** Registers the service worker, and has it look for a newer page. Once the agent runs: nothing should be in its way before. */
export async function keepPage() {
  if (!navigator.serviceWorker) return;
  try {
    navigator.serviceWorker.onmessage = ({ data }) => {
      if (data === "update") notice("update", {}, { text: "Load it", do: () => location.reload() });
      if (data?.notKept) notice("not-kept", { error: data.notKept });
    };
    await navigator.serviceWorker.register("sw.js");
    const { active } = await navigator.serviceWorker.ready;
    active.postMessage("look");
  } catch (error) { notice("not-kept", { error: error.message }); }
  // Where there is room for it, the browser then does not clear what is kept by itself.
  await navigator.storage?.persist?.().catch(() => false);
}
