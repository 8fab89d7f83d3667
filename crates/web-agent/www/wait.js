// Atomics.waitAsync for browsers without it (Firefox before 145): tasks of a program that may have threads wake one another by it.
// Here they are looked after every few milliseconds.

const LOOK_EVERY_MS = 4;

Atomics.waitAsync ??= (array, index, value) => ({
  async: true,
  value: new Promise(done => {
    const look = () => (Atomics.load(array, index) === value ? setTimeout(look, LOOK_EVERY_MS) : done("ok"));
    look();
  }),
});
