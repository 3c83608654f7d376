/**
 * Who may speak, on one host: the production guard and lease in a thread of their own, and the end
 * of them that the roles see: failover/heartbeat/guard-shell.ts and guest/speech-shell.ts in small.
 *
 * The thread has its own inbox and its own late timers: it can stand still while the rest of the
 * agent goes on, and the other way round. What the threads tell each other takes a moment and keeps
 * its order.
 */
import {
  createLeaseMemory,
  type GuardInput,
  type GuardOutput,
  type HeartbeatMessage,
  LeaseWriter,
  OutputLease,
  SpeechGuard,
  UNLIMITED_US,
  type WitnessAnswer,
  type WitnessRequest,
} from '../../src/failover/index.js';
import type { Breakage } from './checker.js';
import type { Side, SimOffer } from './network.js';
import type { World } from './world.js';

/** From one thread to the other. */
const HOP_US = 20;
/** As in src/guest/limits.ts. */
const STATUS_US = 200_000;
const MISSED_MAX = 25;
/** From which on a guard that stands still ends its node. */
export const GUARD_SILENCE_US_MAX = (MISSED_MAX + 1) * STATUS_US;

export interface SpeechHooks {
  onAlone?: () => void;
  onTakeOver?: () => void;
  onStale?: (reason: string) => void;
  onFenced?: (reason: string) => void;
}

export interface SpeechHost {
  readonly side: Side;
  readonly world: World;
  readonly nowLocalUs: number;
  /** When the main thread gave its last sign of life; own clock. */
  readonly mainAliveAtUs: number;
  /** Runs in the main thread, or in the guard's: later if that stands still. */
  deliver(run: () => void): void;
  deliverGuard(run: () => void): void;
  /** World time of a time of the host's clock. */
  worldUs(localUs: number): number;
  trace(text: () => string): void;
  sendHeartbeat(message: HeartbeatMessage, key: number): void;
  askWitness(request: WitnessRequest, answered: (answer: WitnessAnswer) => void): void;
  releaseWitness(done: () => void): void;
  nonce(): number;
  /** The guard does not answer: the node ends. */
  guardFailed(): void;
  /** The end of the lease has moved. */
  leaseMoved(): void;
  /** In a file. */
  token: number;
}

export interface SpeechParts {
  readonly role: 'primary' | 'secondary';
  readonly promiseUs: number;
  readonly heartbeatUs: number;
  readonly breakage: Breakage | undefined;
}

export class SimSpeech {
  hooks: SpeechHooks = {};
  isAlone = false;
  fenced: string | undefined;
  /** In world time, whoever runs; 0 if there is none. */
  leaseEndsUs = 0;
  readonly #host: SpeechHost;
  readonly #guard: SpeechGuard;
  readonly #breakage: Breakage | undefined;
  readonly #memory = createLeaseMemory();
  readonly #lease = new LeaseWriter(this.#memory);
  #key = 0;
  #timer = 0;
  #over = false;
  #unanswered = 0;
  /** What the main thread waits for. */
  readonly #settling: (() => void)[] = [];
  /** Requests to the witness, one after the other. */
  readonly #witnessWork: ((done: () => void) => void)[] = [];

  constructor(host: SpeechHost, parts: SpeechParts) {
    const { role, promiseUs, heartbeatUs, breakage } = parts;
    this.#host = host;
    this.#breakage = breakage;
    this.#guard = new SpeechGuard({
      role,
      promiseUs,
      heartbeatUs,
      hasWitness: true,
      takesRisk: false,
      knownToken: host.token,
      startUs: host.nowLocalUs,
    });
    host.deliverGuard(() => this.#tick());
    this.#watch();
  }

  /** A guard that stands still ends its node. */
  #watch(): void {
    const { world } = this.#host;
    world.schedule(STATUS_US, () =>
      this.#host.deliver(() => {
        if (this.#over) return;
        this.#unanswered += 1;
        if (this.#unanswered > MISSED_MAX) {
          this.#abandon();
          return;
        }
        this.#toGuard(() => {
          world.schedule(HOP_US, () =>
            this.#host.deliver(() => {
              this.#unanswered = 0;
            }),
          );
        });
        this.#watch();
      }),
    );
  }

  #abandon(): void {
    this.die();
    for (const done of this.#settling.splice(0)) done();
    this.#host.guardFailed();
  }

  /** One for each TAP. */
  tap(): OutputLease {
    return new OutputLease(this.#memory);
  }

  get state(): string {
    return this.#guard.state.kind;
  }

  get isWitnessed(): boolean {
    return this.#guard.isWitnessed;
  }

  /** Both rights are as a healthy pair has them: the peer's, and not the witness's. */
  get isHealthy(): boolean {
    return this.#guard.state.kind === 'speaking' && !this.#guard.isWitnessed;
  }

  /** For the hello of a new session. */
  offer(done: (offer: SimOffer) => void): void {
    const { world } = this.#host;
    world.schedule(HOP_US, () =>
      this.#host.deliverGuard(() => {
        const { token } = this.#guard;
        const offer = { session: this.#host.nonce(), token, key: this.#host.nonce() };
        world.schedule(HOP_US, () => this.#host.deliver(() => done(offer)));
      }),
    );
  }

  /** Secondary: a hello is about to be accepted. */
  accept(offer: SimOffer): void {
    this.#host.token = 0;
    this.meet(offer.key);
  }

  meet(key: number): void {
    this.#toGuard(() => {
      this.#key = key;
    });
    this.#post({ kind: 'joined' });
  }

  protecting(session: number, done: () => void): void {
    this.isAlone = false;
    // A sabotage: the witness's old word is still good for a pair.
    if (this.#breakage === 'skip-protecting') done();
    else this.#settle({ kind: 'protecting', session }, done);
  }

  standBy(session: number, token: number): void {
    this.#post({ kind: 'standby', session, token });
    if (this.#breakage === 'vouch-running') this.#host.token = token;
  }

  /** Secondary: whether its images alone have all that clients see from now on. */
  vouch(token: number | undefined): void {
    if (this.#breakage !== 'vouch-running') this.#host.token = token ?? 0;
  }

  peerLost({ proof }: { proof: boolean }): void {
    if (proof) this.#post({ kind: 'peerGone', reason: 'process gone' });
    else this.#post({ kind: 'peerTrouble', reason: 'connection reset' });
    const claimsProof = proof || this.#breakage === 'silence-is-proof';
    this.#post({ kind: 'peerLost', proof: claimsProof });
  }

  discarded(): void {
    this.#post({ kind: 'discarded' });
    this.#post({ kind: 'parted' });
  }

  force(): void {
    this.#post({ kind: 'peerGone', reason: 'operator' });
    this.#post({ kind: 'force' });
  }

  leave(reason: string, done: () => void = () => {}): void {
    this.isAlone = false;
    if (this.#breakage === 'leave-late') done();
    else this.#settle({ kind: 'leave', reason }, done);
  }

  lan(reachable: boolean): void {
    this.#host.deliverGuard(() => this.#step({ kind: 'lan', reachable }));
  }

  /** A datagram of the peer. */
  heard(message: HeartbeatMessage, key: number): void {
    if (key === this.#key) this.#step({ kind: 'arrived', message });
  }

  /** With its process. */
  die(): void {
    this.#over = true;
    this.#setLease(0);
  }

  #post(input: GuardInput): void {
    this.#toGuard(() => this.#step(input));
  }

  #settle(input: GuardInput, done: () => void): void {
    if (this.#over) {
      done();
      return;
    }
    this.#settling.push(done);
    const settled = (): void => {
      const index = this.#settling.indexOf(done);
      if (index < 0) return;
      this.#settling.splice(index, 1);
      done();
    };
    this.#toGuard(() => {
      this.#step(input);
      this.#host.world.schedule(HOP_US, () => this.#host.deliver(settled));
    });
  }

  #toGuard(run: () => void): void {
    this.#host.world.schedule(HOP_US, () => this.#host.deliverGuard(run));
  }

  #tick(): void {
    this.#step({ kind: 'tick', mainAliveAtUs: this.#host.mainAliveAtUs });
  }

  #step(input: GuardInput): void {
    if (this.#over) return;
    const outputs = this.#guard.step(input, this.#host.nowLocalUs);
    if (input.kind !== 'tick' && input.kind !== 'arrived') {
      this.#host.trace(() => `guard <- ${JSON.stringify(input)}`);
    }
    for (const output of outputs) this.#perform(output);
    this.#schedule();
  }

  #schedule(): void {
    this.#timer += 1;
    const timer = this.#timer;
    const waitUs = Math.max(0, this.#guard.deadlineUs() - this.#host.nowLocalUs);
    // As a timer of whole milliseconds would.
    this.#host.world.schedule(Math.ceil(waitUs / 1000) * 1000, () =>
      this.#host.deliverGuard(() => {
        if (timer === this.#timer) this.#tick();
      }),
    );
  }

  #perform(output: GuardOutput): void {
    if (output.kind !== 'send' && output.kind !== 'extend') {
      this.#host.trace(() => `guard -> ${JSON.stringify(output)}`);
    }
    switch (output.kind) {
      case 'send':
        this.#host.sendHeartbeat(output.message, this.#key);
        return;
      case 'extend':
        this.#lease.extend(output.untilUs);
        this.#setLease(output.untilUs);
        return;
      case 'speak':
        this.#lease.arm(output.untilUs);
        this.#setLease(output.untilUs);
        return;
      case 'fallSilent':
        // A sabotage: nobody tells the threads that write.
        if (this.#breakage === 'no-revoke') return;
        this.#lease.revoke();
        this.#setLease(0);
        return;
      case 'askWitness':
        this.#enqueue((done) => this.#ask(output.request, done));
        return;
      case 'releaseWitness':
        this.#enqueue((done) => this.#host.releaseWitness(() => this.#host.deliverGuard(done)));
        return;
      default:
        this.#host.world.schedule(HOP_US, () => this.#host.deliver(() => this.#news(output)));
    }
  }

  #setLease(untilLocalUs: number): void {
    const endless = untilLocalUs === UNLIMITED_US;
    this.leaseEndsUs = endless
      ? Number.POSITIVE_INFINITY
      : untilLocalUs === 0
        ? 0
        : this.#host.worldUs(untilLocalUs);
    this.#host.leaseMoved();
  }

  #ask(request: WitnessRequest, done: () => void): void {
    this.#host.askWitness(request, (answer) =>
      this.#host.deliverGuard(() => {
        this.#step({ kind: 'answered', answer });
        done();
      }),
    );
  }

  #enqueue(work: (done: () => void) => void): void {
    this.#witnessWork.push(work);
    if (this.#witnessWork.length === 1) this.#next();
  }

  #next(): void {
    this.#witnessWork[0]?.(() => {
      this.#witnessWork.shift();
      this.#next();
    });
  }

  #news(news: Exclude<GuardOutput, { kind: 'send' | 'extend' }>): void {
    if (this.#over) return;
    switch (news.kind) {
      case 'goAlone':
      case 'takeOver':
        this.fenced = undefined;
        this.isAlone = true;
        this.#host.token = news.token;
        if (news.kind === 'goAlone') this.hooks.onAlone?.();
        else this.hooks.onTakeOver?.();
        return;
      case 'learnt':
        this.#host.token = news.token;
        return;
      case 'stale':
        this.hooks.onStale?.(news.reason);
        return;
      case 'fenced':
        this.fenced = news.reason;
        this.isAlone = false;
        this.hooks.onFenced?.(news.reason);
        return;
      default:
        return;
    }
  }
}
