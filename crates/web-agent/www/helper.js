// One of the threads that share the work of an image with worker.js: the same module, in the same memory. Where it does not
// come, nobody waits for it.

self.onmessage = async ({ data: [module, memory] }) => {
  const program = await import("./pkg/outpost_web_agent.js");
  await program.default({ module_or_path: module, memory });
  try {
    // For good.
    program.work();
  } catch (error) {
    // The agent may wait for what this thread had begun, and is not to be asked again.
    new BroadcastChannel(self.name).postMessage({ kind: "crashed", error: String(error) });
  }
};
