/** One member of etcd for a test: in a folder of its own, without a cluster. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

const START_TRIES = 300;
const START_PAUSE_MS = 100;

export interface EtcdOptions {
  /** What stands before the command, such as `ip netns exec NAME`. */
  readonly enter: readonly string[];
  readonly address: string;
  readonly clientPort: number;
  readonly peerPort: number;
  /** Whether it answers yet. */
  readonly probe: (endpoint: string) => Promise<boolean>;
}

export class Etcd {
  readonly endpoint: string;
  readonly process: ChildProcess;
  readonly #folder: string;

  private constructor(process: ChildProcess, folder: string, endpoint: string) {
    this.process = process;
    this.#folder = folder;
    this.endpoint = endpoint;
  }

  /** Resolves once it answers. */
  static async start(options: EtcdOptions): Promise<Etcd> {
    const { enter, address, clientPort, peerPort } = options;
    const folder = mkdtempSync(join(tmpdir(), 'colo-test-etcd-'));
    const endpoint = `http://${address}:${clientPort}`;
    const peers = `http://${address}:${peerPort}`;
    const [file = '', ...args] = [
      ...enter,
      'etcd',
      `--data-dir=${join(folder, 'data')}`,
      `--listen-client-urls=${endpoint}`,
      `--advertise-client-urls=${endpoint}`,
      `--listen-peer-urls=${peers}`,
      `--initial-advertise-peer-urls=${peers}`,
      `--initial-cluster=default=${peers}`,
    ];
    const child = spawn(file, args, { stdio: 'ignore' });
    const etcd = new Etcd(child, folder, endpoint);
    let failure: Error | undefined;
    child.once('error', (error) => {
      failure = error;
    });
    for (let left = START_TRIES; left > 0 && failure === undefined; left -= 1) {
      if (await options.probe(endpoint)) return etcd;
      await delay(START_PAUSE_MS);
    }
    etcd.stop();
    throw failure ?? new Error('etcd did not start');
  }

  stop(): void {
    this.process.kill('SIGKILL');
    rmSync(this.#folder, { recursive: true, force: true, maxRetries: 5 });
  }
}
