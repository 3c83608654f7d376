/**
 * The way of a guest into a QEMU that waits for it: incoming-stream.ts over a socket pair. What
 * does not depend on the guest has gone in at launch, and QEMU has said so.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { type Deferred, deferred, ProtocolError } from '../lib/index.js';
import { CHILD_FD } from './command-line.js';
import { QemuError } from './errors.js';
import {
  encodeIncomingBegin,
  encodeIncomingDevices,
  IncomingAnswers,
  parseBios,
  type Rom,
} from './incoming-stream.js';
import { LAUNCH_DEADLINE_MS, QMP_COMMAND_DEADLINE_MS } from './limits.js';
import type { QmpClient } from './qmp-client-shell.js';

/** Any value: there is one ping. */
const PING = 1;

export interface IncomingOptions {
  readonly qmp: QmpClient;
  /** Our end of QEMU's `CHILD_FD.incoming`. */
  readonly socket: Duplex;
  readonly machineType: string;
  /** Where this QEMU looks for a BIOS, in this order. */
  readonly dataFolders: () => Promise<readonly string[]>;
}

export class IncomingGuest {
  readonly #socket: Duplex;
  readonly #answers = new IncomingAnswers();
  readonly #pong = deferred();
  readonly #loaded: Deferred<void> = deferred();

  private constructor(socket: Duplex) {
    this.#socket = socket;
    // Each may be rejected before somebody waits for it.
    this.#pong.promise.catch(() => undefined);
    this.#loaded.promise.catch(() => undefined);
    socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    socket.on('error', (cause) => this.#fail(new QemuError('The way into QEMU broke', { cause })));
    socket.on('close', () => this.#fail(new QemuError('QEMU did not take the guest')));
  }

  /** Rejects with QemuError or ProtocolError if this QEMU does not take a guest in this way. */
  static async open(options: IncomingOptions): Promise<IncomingGuest> {
    const { qmp, socket, machineType, dataFolders } = options;
    const roms = await qmp.execute('human-monitor-command', { 'command-line': 'info roms' });
    const rom = parseBios(typeof roms === 'string' ? roms : '');
    const bios = rom === undefined ? undefined : await readBios(rom, await dataFolders());
    // Its NICs would announce themselves, unasked.
    await qmp.execute('migrate-set-parameters', { 'announce-rounds': 0 });
    const incoming = new IncomingGuest(socket);
    await qmp.execute('migrate-incoming', { uri: `fd:${CHILD_FD.incoming}` });
    socket.write(encodeIncomingBegin(machineType, bios, PING));
    await within(LAUNCH_DEADLINE_MS, incoming.#pong);
    return incoming;
  }

  /** Once. Rejects with ProtocolError or QemuError; of the latter QEMU's words are on its stderr. */
  async load(state: Buffer): Promise<void> {
    // A state that says it has more than there is meets its end, not a wait.
    this.#socket.end(encodeIncomingDevices(state));
    await within(QMP_COMMAND_DEADLINE_MS, this.#loaded);
  }

  close(): void {
    this.#socket.destroy();
  }

  #receive(chunk: Buffer): void {
    try {
      for (const answer of this.#answers.write(chunk)) {
        if (answer.kind === 'pong' && answer.value === PING) this.#pong.resolve();
        else if (answer.kind === 'shut' && answer.error === 0) this.#loaded.resolve();
        else throw new ProtocolError(`QEMU answers ${JSON.stringify(answer)} to a guest`);
      }
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#fail(error);
    }
  }

  #fail(error: Error): void {
    this.#pong.reject(error);
    this.#loaded.reject(error);
    this.#socket.destroy();
  }
}

async function within(ms: number, { promise, reject }: Deferred<void>): Promise<void> {
  const timer = setTimeout(() => {
    reject(new QemuError(`QEMU said nothing of the guest within ${ms} ms`));
  }, ms);
  try {
    await promise;
  } finally {
    clearTimeout(timer);
  }
}

/** As QEMU finds it: by its name as it is, else in the first folder that has it. */
async function readBios({ file, sizeBytes }: Rom, folders: readonly string[]): Promise<Buffer> {
  for (const path of [file, ...folders.map((folder) => join(folder, file))]) {
    const bytes = await readFile(path).catch(() => undefined);
    if (bytes === undefined) continue;
    if (bytes.length === sizeBytes) return bytes;
    throw new QemuError(`${path} has ${bytes.length} bytes, QEMU's BIOS ${sizeBytes}`);
  }
  throw new QemuError(`The BIOS ${file} is not in any folder of QEMU`);
}
