/** A node without a guest, and a log that is read along, for the tests of src/cli. */
import type {
  CaptureOptions,
  CommandResult,
  EventsAnswer,
  EventsQuery,
  Mode,
  NodeControl,
  NodeStatus,
  PeriodSetting,
  VerifiedDisk,
  VerifyAnswer,
  VerifyOptions,
} from '../../src/config/index.js';
import type { Logger } from '../../src/lib/index.js';

/** A status in which every optional field is there. */
export function fullStatus(): NodeStatus {
  return {
    vm: 'web',
    host: 'hostA',
    role: 'primary',
    phase: 'protected',
    state: 'protected',
    mode: 'checkpoint',
    peer: { address: '10.0.0.2:7800', state: 'connected', lastHeardMs: 12 },
    epoch: 42,
    committedEpoch: 41,
    periodMs: 200,
    checkpoints: { total: 41, byTrigger: { period: 40, operator: 1 }, failed: 0 },
    pauseMs: { last: 2.934, median: 2.8, p99: 4.1 },
    dirtyPages: { last: 312, inPause: 14 },
    bytesSent: 13_000_000,
    held: { frames: 3, bytes: 4200 },
    compare: { running: true, flows: 12, confirmedFrames: 98_765, divergences: 4, timeouts: 1 },
    downtimeMs: null,
    dirtyTracker: 'userfaultfd',
    accelerator: 'tcg',
    qemuVersion: '7.2.22',
    sync: {
      phase: 'ram',
      doneBytes: 128 * 1024 ** 2,
      totalBytes: 512 * 1024 ** 2,
      disks: [
        {
          name: 'disk0',
          phase: 'comparing',
          candidates: 4096,
          compared: 120,
          differing: 3,
          sentBytes: 65_536,
          leftBytes: 131_072,
          remainingS: 12,
        },
      ],
    },
    lastSync: { durationMs: 2340, ramSentBytes: 54_525_952, ramKeptBytes: 216_006_656 },
    verify: { disk: 'disk0', compared: 1024, clusters: 4096, differing: 1 },
    disks: [
      {
        name: 'disk0',
        sizeBytes: 2 * 1024 ** 3,
        bufferedBytes: 4096,
        overlayBytes: 0,
        generation: { id: '5b0c7e5e-0000-4000-8000-000000000001', epoch: 40, state: 'active' },
      },
    ],
    diskMemoryBytes: 24 * 1024 ** 2,
    uptimeMs: 3_725_000,
    verified: 0,
    speech: {
      witness: 'etcd://10.0.0.3:2379',
      state: 'speaking',
      granted: false,
      leaseMs: 480,
      token: 17,
      peer: 'alive',
      gateway: 'reachable',
      trouble: null,
    },
    migration: {
      direction: 'outgoing',
      peer: '10.0.0.3:7800',
      method: 'hybrid',
      state: 'postcopy',
      round: 1,
      doneBytes: 1024 ** 2,
      totalBytes: 512 * 1024 ** 2,
      sentBytes: 2_000_000,
      bytesPerSecond: 100_000_000,
      remainingMs: 4200,
      throttlePercent: 10,
      downtimeMs: 31,
      faults: { count: 120, p50Us: 210, p99Us: 1900 },
      problem: null,
    },
    security: {
      transport: 'tls',
      certificate: {
        names: ['hosta', '10.0.0.1'],
        validUntil: '2030-01-02T03:04:05.000Z',
        daysLeft: 400,
      },
      peerCertificate: {
        names: ['hostb'],
        validUntil: '2029-01-02T03:04:05.000Z',
        daysLeft: 12,
      },
    },
    lastFailure: null,
  };
}

/** A disk with one difference that nobody has repaired. */
export function verifiedDisk(): VerifiedDisk {
  return {
    name: 'disk0',
    clusters: 4096,
    differing: 1,
    ranges: [{ offset: 2_621_440, length: 65_536 }],
    notCompared: 0,
    repairedBytes: 0,
    remaining: 1,
  };
}

/** Answers every command and notes it in `calls`. */
export class FakeNode implements NodeControl {
  readonly calls: string[] = [];
  /** Given by every command. */
  result: CommandResult = { ok: true, detail: 'Done' };
  /** To `events`, one after the other; then there are none. */
  answers: EventsAnswer[] = [];
  /** While set, `checkpoint` waits for it. */
  gate: Promise<void> | undefined;
  /** Thrown by `failover` when set. */
  failure: Error | undefined;

  status(): NodeStatus {
    this.calls.push('status');
    return fullStatus();
  }

  async failover(options: { force: boolean }): Promise<CommandResult> {
    this.calls.push(`failover force=${options.force}`);
    if (this.failure !== undefined) throw this.failure;
    return this.result;
  }

  setPeriod(period: PeriodSetting): CommandResult {
    this.calls.push(`set-period ${period}`);
    return this.result;
  }

  async setMode(mode: Mode): Promise<CommandResult> {
    this.calls.push(`set-mode ${mode}`);
    return this.result;
  }

  async capture(options: CaptureOptions): Promise<CommandResult> {
    const { dir, durationUs, nic, bytesMax } = options;
    this.calls.push(`capture ${dir} ${durationUs} ${nic} ${bytesMax}`);
    return this.result;
  }

  async switchover(): Promise<CommandResult> {
    this.calls.push('switchover');
    return { ok: true, detail: 'done' };
  }

  async detach(): Promise<CommandResult> {
    this.calls.push('detach');
    return this.result;
  }

  async attach(): Promise<CommandResult> {
    this.calls.push('attach');
    return this.result;
  }

  async stopPeer(): Promise<CommandResult> {
    this.calls.push('stopPeer');
    return this.result;
  }

  async stop(): Promise<CommandResult> {
    this.calls.push('stop');
    return this.result;
  }

  async checkpoint(): Promise<CommandResult> {
    this.calls.push('checkpoint');
    await this.gate;
    return this.result;
  }

  async events({ after, waitMs }: EventsQuery): Promise<EventsAnswer> {
    this.calls.push(`events after=${after} waitMs=${waitMs}`);
    return this.answers.shift() ?? { events: [], next: after ?? 0 };
  }

  async verify({ disk, repair }: VerifyOptions): Promise<VerifyAnswer> {
    this.calls.push(`verify ${disk} repair=${repair}`);
    if (!this.result.ok) return this.result;
    return { ok: true, disks: [verifiedDisk()] };
  }
}

/** Keeps what is logged as `level message`. */
export class CollectingLog implements Logger {
  readonly lines: string[] = [];

  debug(message: string): void {
    this.lines.push(`debug ${message}`);
  }

  info(message: string): void {
    this.lines.push(`info ${message}`);
  }

  warn(message: string): void {
    this.lines.push(`warn ${message}`);
  }

  error(message: string): void {
    this.lines.push(`error ${message}`);
  }
}
