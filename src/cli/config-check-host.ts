/** What `colo check-config` asks of this host: the only part of it that touches the system. */
import { execFile } from 'node:child_process';
import { lookup } from 'node:dns/promises';
import { constants } from 'node:fs';
import { access, open, realpath, stat } from 'node:fs/promises';
import { createConnection, createServer } from 'node:net';
import { hostname, networkInterfaces, totalmem } from 'node:os';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import {
  type Address,
  examineLinkSecurity,
  type SecurityFinding,
  type SecurityPlace,
} from '../config/index.js';
import { describeError } from '../lib/index.js';
import { probeSoftDirty, probeUserfaultfd, seekSize } from '../linux/index.js';
import { PROGRAM_MS_MAX, PROGRAM_OUTPUT_BYTES_MAX } from './limits.js';
import { readFileBounded } from './read-file.js';

/** What a path names, as far as this process can tell. */
export interface PathFacts {
  readonly kind: 'file' | 'block device' | 'folder' | 'device';
  readonly sizeBytes: number;
  readonly readable: boolean;
  readonly writable: boolean;
  /** The first bytes of a file, as latin1; empty if it can't be read. */
  readonly head: string;
}

/** This host, as far as a configuration depends on it. */
export interface Host {
  readonly hostname: string;
  readonly userId: number;
  readonly memoryBytes: number;
  /** At most the size of a configuration file and one byte; undefined when there is none. */
  readonly readFile: (path: string) => Uint8Array | undefined;
  /** Undefined when there is no such path, or none that this process may see. */
  readonly inspect: (path: string) => Promise<PathFacts | undefined>;
  /** Undefined when there is no such interface. */
  readonly interfaceKind: (name: string) => Promise<'bridge' | 'other' | undefined>;
  readonly addresses: () => string[];
  /** The addresses of a name or an address; none when it has none. */
  readonly resolve: (name: string) => Promise<string[]>;
  /** Why nothing can be listened to there; undefined when it can. */
  readonly listenError: (address: Address) => Promise<string | undefined>;
  readonly agentRuns: (socketPath: string) => Promise<boolean>;
  /** What a program prints; undefined when it can't be run. */
  readonly run: (program: string, args: readonly string[]) => Promise<string | undefined>;
  /** Why written pages can't be found in this way; undefined when they can. */
  readonly trackerReason: (kind: 'userfaultfd' | 'soft-dirty') => string | undefined;
  readonly preloadExists: () => Promise<boolean>;
  /** What is wrong with CA, certificate and key, as the agent would say it. */
  readonly securityFindings: (place: SecurityPlace) => readonly SecurityFinding[];
}

const PRELOAD_PATH = fileURLToPath(new URL('../../native/ram-preload.so', import.meta.url));
const HEAD_BYTES = 4;

/** The host that this process runs on. */
export const thisHost: Host = {
  hostname: hostname(),
  userId: process.getuid?.() ?? 0,
  memoryBytes: totalmem(),
  readFile: readFileBounded,
  inspect,
  interfaceKind: async (name) => {
    if ((await inspect(`/sys/class/net/${name}`)) === undefined) return undefined;
    return (await inspect(`/sys/class/net/${name}/bridge`)) === undefined ? 'other' : 'bridge';
  },
  addresses: () =>
    Object.values(networkInterfaces()).flatMap((list) => (list ?? []).map((one) => one.address)),
  resolve: async (name) => {
    try {
      return (await lookup(name, { all: true })).map(({ address }) => address);
    } catch {
      // Whatever the reason, the agent would not find the host either.
      return [];
    }
  },
  listenError,
  agentRuns: (socketPath) => {
    const socket = createConnection(socketPath);
    return new Promise((resolve) => {
      socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
    }).finally(() => socket.destroy()) as Promise<boolean>;
  },
  run: async (program, args) => {
    try {
      const { stdout } = await promisify(execFile)(program, [...args], {
        timeout: PROGRAM_MS_MAX,
        maxBuffer: PROGRAM_OUTPUT_BYTES_MAX,
      });
      return stdout;
    } catch {
      // Not there, not executable, or broken: all the same to the agent.
      return undefined;
    }
  },
  trackerReason: (kind) => (kind === 'userfaultfd' ? probeUserfaultfd() : probeSoftDirty()),
  securityFindings: (place) => examineLinkSecurity(place, Date.now()).findings,
  preloadExists: async () => (await inspect(PRELOAD_PATH)) !== undefined,
};

async function inspect(path: string): Promise<PathFacts | undefined> {
  try {
    const real = await realpath(path);
    const found = await stat(real);
    const kind = found.isFile()
      ? 'file'
      : found.isBlockDevice()
        ? 'block device'
        : found.isDirectory()
          ? 'folder'
          : 'device';
    const readable = await may(real, constants.R_OK);
    const writable = await may(real, constants.W_OK);
    const opened = readable && (kind === 'file' || kind === 'block device');
    const content = opened ? await readHead(real) : { head: '', sizeBytes: found.size };
    return { kind, readable, writable, ...content };
  } catch {
    return undefined;
  }
}

async function may(path: string, mode: number): Promise<boolean> {
  try {
    await access(path, mode);
    return true;
  } catch {
    return false;
  }
}

async function readHead(path: string): Promise<{ head: string; sizeBytes: number }> {
  const file = await open(path, 'r');
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(HEAD_BYTES), 0, HEAD_BYTES, 0);
    return { head: buffer.toString('latin1', 0, bytesRead), sizeBytes: seekSize(file.fd) };
  } finally {
    await file.close();
  }
}

async function listenError({ host, port }: Address): Promise<string | undefined> {
  const server = createServer();
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject).listen({ host, port, exclusive: true }, resolve);
    });
    return undefined;
  } catch (error) {
    return describeError(error);
  } finally {
    server.close();
  }
}
