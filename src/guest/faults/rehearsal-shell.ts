/**
 * Both ends of the lane at work in one thread, on memory of their own, before any guest comes.
 *
 * Code takes several times as long the first time, and the engine makes it fast only when it has
 * run often: the first ten pages that a guest waited for took a millisecond each, and it needed a
 * thousand more for half as long at the median (docs/performance.md). A guest comes seldom, and
 * its thread waits for it idle. Here it does what it will do then: the same classes, a connection,
 * pages placed by userfaultfd. Only nobody waits for them: that somebody does is written into a
 * socket in the form in which the kernel tells it.
 */
import { closeSync, writeSync } from 'node:fs';
import { setTimeout as delay, setImmediate as nextTurn } from 'node:timers/promises';
import { type FaultBorrower, FaultServer } from '../../emulator/index.js';
import { ColoError, describeError, type Logger, PAGE_SIZE_BYTES } from '../../lib/index.js';
import {
  createMemoryFile,
  encodeFault,
  MemoryMap,
  monotonicUs,
  socketPair,
  Userfaultfd,
} from '../../linux/index.js';
import { attachLink, CHANNEL_LIMITS, type Link, NO_COUNTS, PLAIN } from '../../transport/index.js';
import { FaultSourceLane } from './fault-source-lane-shell.js';
import { FaultTargetLane } from './fault-target-lane-shell.js';
import {
  REHEARSAL_DELAY_MS,
  REHEARSAL_FAULTS,
  REHEARSAL_MAX_MS,
  REHEARSAL_PAGES,
} from './limits.js';

const SIZE_BYTES = REHEARSAL_PAGES * PAGE_SIZE_BYTES;
/** Coprime to the number of pages: the next fault is in another block than the last. */
const STRIDE = 37;

/** Begins a while after it was made; ends by itself, or when there is a guest. */
export class Rehearsal {
  /** With how many faults, when it is over and nothing is left of it. Never rejects. */
  readonly over: Promise<number>;
  readonly #log: Logger;
  #ended = false;

  constructor(log: Logger, delayMs = REHEARSAL_DELAY_MS) {
    this.#log = log;
    this.over = this.#run(delayMs);
  }

  /** From now on the thread is somebody else's. Idempotent. */
  end(): void {
    this.#ended = true;
  }

  async #run(delayMs: number): Promise<number> {
    await delay(delayMs);
    if (this.#ended) return 0;
    const scene = new Scene(this.#log);
    try {
      scene.open();
      return await this.#play(scene);
    } catch (error) {
      // What is missing on this host is told when there is a guest.
      if (!(error instanceof ColoError)) throw error;
      this.#log.debug('The fault lane can not be rehearsed', { reason: describeError(error) });
      return 0;
    } finally {
      scene.close();
    }
  }

  async #play(scene: Scene): Promise<number> {
    const untilUs = monotonicUs() + REHEARSAL_MAX_MS * 1000;
    const isOver = (): boolean => this.#ended || monotonicUs() > untilUs;
    let fault = 0;
    for (; fault < REHEARSAL_FAULTS && !isOver(); fault += 1) {
      const offset = ((fault * STRIDE) % REHEARSAL_PAGES) * PAGE_SIZE_BYTES;
      scene.touch(offset);
      while (scene.lacks(offset) && !isOver()) await nextTurn();
    }
    this.#log.debug('The fault lane is rehearsed', { faults: fault });
    return fault;
  }
}

/** A RAM at each end, the connection, and the socket that tells of faults. */
class Scene {
  readonly #log: Logger;
  readonly #cleanups: (() => void)[] = [];
  #server: FaultServer | undefined;
  #address = 0;
  #faultsTo = -1;

  constructor(log: Logger) {
    this.#log = log;
  }

  /** Throws SystemCallError for what this host does not allow. `close` must follow. */
  open(): void {
    const source = new FaultSourceLane(this.#sourceRam());
    const target = new FaultTargetLane(
      { log: this.#log, notify: () => undefined },
      { ramSizeBytes: SIZE_BYTES, near: true, tellsBytes: false },
    );
    const server = this.#openServer();
    this.#server = server;
    const faultsFrom = this.#openFaults();
    const borrower: FaultBorrower = {
      release: () => Promise.resolve(),
      figures: server.figures.bind(server),
    };
    target.lend({ ...server.lend(borrower), faultsFrom });
    const [near, far] = this.#openLinks();
    this.#cleanups.push(() => target.stop());
    source.attach(near);
    source.begin();
    server.start([{ offset: 0, length: SIZE_BYTES }]);
    // Without demands of nothing, which are for the way from host to host.
    target.serve({ places: true });
    target.attach(far);
  }

  /** As if somebody came to wait for the page. */
  touch(offset: number): void {
    if (!this.lacks(offset)) this.#server?.discard([{ offset: 0, length: SIZE_BYTES }]);
    writeSync(this.#faultsTo, encodeFault(this.#address + offset));
  }

  lacks(offset: number): boolean {
    return this.#server?.isMissing(offset) ?? false;
  }

  close(): void {
    for (const cleanup of this.#cleanups.splice(0).reverse()) cleanup();
  }

  #memoryFile(): number {
    const fd = createMemoryFile('colo-rehearsal', SIZE_BYTES);
    this.#cleanups.push(() => closeSync(fd));
    return fd;
  }

  #sourceRam(): { fd: number; at: number; sizeBytes: number } {
    const fd = this.#memoryFile();
    writeSync(fd, Buffer.alloc(SIZE_BYTES, 0x5a), 0, SIZE_BYTES, 0);
    return { fd, at: 0, sizeBytes: SIZE_BYTES };
  }

  #openServer(): FaultServer {
    const ramFd = this.#memoryFile();
    const map = MemoryMap.ofFile(ramFd, SIZE_BYTES);
    this.#cleanups.push(() => map.close());
    const { address } = map;
    this.#address = address;
    const userfaultfd = Userfaultfd.open().fd;
    const server = new FaultServer(
      { userfaultfd, ramFd, address, sizeBytes: SIZE_BYTES, vcpuThreads: [] },
      { begin: () => undefined, begun: () => undefined, end: (change) => change() },
    );
    this.#cleanups.push(() => server.close());
    return server;
  }

  #openFaults(): number {
    const [from, to] = socketPair();
    this.#cleanups.push(() => {
      closeSync(from);
      closeSync(to);
    });
    this.#faultsTo = to;
    return from;
  }

  #openLinks(): [Link, Link] {
    const [near, far] = socketPair();
    return [this.#linkOf(near), this.#linkOf(far)];
  }

  #linkOf(fd: number): Link {
    const link = attachLink(
      {
        ...{ fd, leftover: new Uint8Array(0), limits: CHANNEL_LIMITS.faults },
        ...{ remoteAddress: '', counters: NO_COUNTS, security: PLAIN },
        resume: {
          ...{ sessionId: new Uint8Array(16), channel: 'faults' as const, resumes: true },
          ...{ sent: 0, acked: 0, received: 0, attempt: 0, held: [] },
        },
      },
      { log: this.#log },
    );
    this.#cleanups.push(() => link.destroy());
    return link;
  }
}
