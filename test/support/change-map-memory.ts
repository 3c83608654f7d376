/** The bytes of a change map's file, without a file. */
import { type ChangeMapMemory, changeMapBytes } from '../../src/blockrep/generation/change-map.js';

/** A new file's bytes, or a copy of another one's. */
export function changeMapMemory(diskSizeBytes: number, from?: ChangeMapMemory): ChangeMapMemory {
  const bytes = new ArrayBuffer(changeMapBytes(diskSizeBytes));
  const words = new Uint32Array(bytes);
  if (from !== undefined) words.set(from.words);
  return { header: new BigUint64Array(bytes, 0, 512), words };
}

/** The same memory, but `onStore` is called after each store: where a process may be killed. */
export function watchStores(memory: ChangeMapMemory, onStore: () => void): ChangeMapMemory {
  const watched = <T extends BigUint64Array | Uint32Array>(array: T): T =>
    new Proxy(array, {
      get: (target, key) => Reflect.get(target, key, target),
      set: (target, key, value) => {
        const done = Reflect.set(target, key, value, target);
        onStore();
        return done;
      },
    });
  return { header: watched(memory.header), words: watched(memory.words) };
}
