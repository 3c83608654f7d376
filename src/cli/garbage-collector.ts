/** How often V8 collects a thread's whole heap. */
import { setFlagsFromString } from 'node:v8';

/**
 * The heap may grow to five times what was left after the last full collection, per cent. V8's own
 * factor is 1.1 for a thread that allocates fast and leaves little: a heap of 10 MB, and batches of
 * packets, which count as part of it, were collected some 30 times a second, each time for 5 to
 * 15 ms and by four helpers as well. The bound stays V8's, which counts 64 MB of memory outside of
 * its heap as a reason of its own, whatever the factor.
 */
const HEAP_GROWING_PERCENT = 400;

/** For all threads, those that run and those to come: V8 looks at it at each full collection. */
export function relaxCollector(): void {
  setFlagsFromString(`--heap-growing-percent=${HEAP_GROWING_PERCENT}`);
}
