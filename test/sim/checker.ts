/**
 * Knows everything and checks the invariants (docs/ARCHITECTURE.md) while a run goes on.
 *
 * In: what the shells really did, and which faults are in effect. Out: a `Violation`, thrown where
 * it happens; or a `KnownLimit`, thrown where two nodes go live (or an old state does) although the
 * code did all that it can without a witness; or a `KnownGap`, where it could have done more. Nothing
 * here is visible to the cores.
 */
import { crc32c } from '../../src/lib/index.js';
import type { PrimaryState } from '../../src/primary/index.js';
import type { GoodbyeKind } from '../../src/replication/index.js';
import {
  CLIENTS_MAX,
  differenceOf,
  FLOWS,
  type Frame,
  flowHeadOf,
  type GuestState,
  headOf,
  lostWriteOf,
} from './guest.js';
import { History } from './history.js';
import type { Side } from './network.js';

/** Sabotages of the simulated shells; each must make a checker fail. */
export const BREAKAGES = [
  'release-early',
  'apply-uncommitted',
  'promote-stale',
  'skip-final-scan',
  'keep-own-pages',
  'mismatch-kept',
  'drop-overlay-early',
  'ignore-silence',
  'applied-early',
  'stale-hold',
  'lose-applied',
  'connect-once',
  'probe-lies',
  'release-unconfirmed',
  'ack-unconfirmed',
  'compare-stale',
  'compare-unsynced',
  'lose-held',
  'forget-inbound',
  'deliver-twice',
  'roll-back',
  'lose-overlay',
  'promoted-releases',
  'demoted-speaks',
  'old-epoch',
  'forget-epochs',
  'replaced-is-abandoned',
  'boot-beside-holder',
  'no-lease',
  'no-revoke',
  'grant-stale',
  'short-grant',
  'silence-is-proof',
  'skip-protecting',
  'leave-late',
  'open-unasked',
  'vouch-running',
  'trust-guard',
] as const;
/** Of these, those that break who may speak, and need a witness. */
export const WITNESS_BREAKAGES: ReadonlySet<Breakage> = new Set([
  'no-lease',
  'no-revoke',
  'grant-stale',
  'short-grant',
  'silence-is-proof',
  'skip-protecting',
  'leave-late',
  'open-unasked',
  'vouch-running',
  'trust-guard',
]);
export type Breakage = (typeof BREAKAGES)[number];

export class Violation extends Error {
  readonly invariant: string;

  constructor(invariant: string, message: string) {
    super(`${invariant}: ${message}`);
    this.invariant = invariant;
  }
}

/** The run ended in a way that this issue can't prevent; `limit` names it for the summary. */
export class KnownLimit extends Error {
  readonly limit: string;

  constructor(limit: string) {
    super(limit);
    this.limit = limit;
  }
}

/** The run ended in a way that the product could prevent without a witness, and does not yet. */
export class KnownGap extends Error {
  readonly gap: string;

  constructor(gap: string) {
    super(gap);
    this.gap = gap;
  }
}

/** What the fault injector did to the running session, by its own account. */
export type Disturbance =
  | 'partition'
  | 'stop'
  | 'reset'
  | 'slow'
  | 'hang'
  | 'force'
  | 'stall'
  | 'weather'
  | 'lan'
  | 'witness'
  | 'disk full';

/** The parts of the truth that the checker looks at itself. */
export interface Truth {
  nowUs(): number;
  /** Nothing has happened in this run that could end a session. */
  undisturbed(): boolean;
  /** The guest powered itself off, and nothing else has struck. */
  onlyPoweredOff(): boolean;
  /** From the death of a protected primary to the promotion, at most, microseconds. */
  promotionWithinUs(): number;
  /** Another host's guest says something that leaves, now or later. */
  otherSpeaks(side: Side): boolean;
  /** It holds a committed state and is not at an end. */
  secondaryStandsBy(): boolean;
  onPeerLoss(): 'failover' | 'wait';
  /** Then nothing that two hosts do is a known limit, but for what an operator forces. */
  readonly hasWitness: boolean;
  /** The SVM with a state that a failover may continue from; undefined if there is none. */
  survivor(): { readonly appliedEpoch: number; flowHead(flow: number): number } | undefined;
  /** The faults that are in effect now. */
  ongoing(): readonly Disturbance[];
  /** It is, or was so lately that a time-out may still count it. */
  recently(kind: 'partition' | 'stop'): boolean;
}

/** How a frame came to leave the primary. */
export interface Departure {
  readonly state: PrimaryState;
  /** Both guests have said it, or the gate has let it go. */
  readonly way: 'confirmed' | 'gate';
  /** The primary's images hold what the guest was told that they do. */
  readonly synced: boolean;
}

export class Checker {
  readonly history = new History();
  readonly #truth: Truth;
  readonly #snapshots = new Map<number, GuestState>();
  readonly #disturbances = new Set<Disturbance>();
  /**
   * Per flow, the events that the LAN has seen; the largest is not enough, since two that differ
   * may be in no one's past.
   */
  readonly #seen = Array.from({ length: FLOWS }, () => new Set<number>());
  /** Per flow, the newest answer that was on a disk before it was given. */
  readonly #durable = new Map<number, number>();
  /** The newest event when the guest was booted. */
  #lifeBegan = 0;
  /** Newest events of the speakers whose whole past is implied by what they said. */
  readonly #heads = new Set<number>();
  #newestCaptured = -1;
  #committedEpoch: number | undefined;
  /** Of the session that runs, or ran last. */
  #sessionId = 0;
  #ranAlone: string | undefined;
  #primaryDiedAtUs = 0;
  #provenAlive = false;
  /** The secondary was told so, or will be by what is on its way. */
  #toldAlive = false;
  /** Where the guest has been started or promoted last: nobody else may speak. */
  #speaker: Side | undefined;
  #operatorAsked = false;
  promotions = 0;
  /** Of these, the SVM had executed since its last checkpoint. */
  promotionsOfRunning = 0;
  /** The guest died while a failover would have lost nothing, and the secondary lived on. */
  wasProtectedAtDeath = false;

  constructor(truth: Truth) {
    this.#truth = truth;
  }

  get speaker(): Side | undefined {
    return this.#speaker;
  }

  /** Both hosts have a right to speak at this moment, whether they use it or not. */
  bothMaySpeak(): void {
    throw this.#limit(this.#speaker ?? 'a', 'both hosts have a lease');
  }

  disturbed(kind: Disturbance): void {
    this.#disturbances.add(kind);
  }

  sessionOpened(id: number): void {
    this.#sessionId = id;
    this.#ranAlone = undefined;
    this.#provenAlive = false;
    this.#toldAlive = false;
    this.#operatorAsked = false;
    this.#committedEpoch = undefined;
    this.#disturbances.clear();
    for (const kind of this.#truth.ongoing()) this.#disturbances.add(kind);
  }

  operatorAskedForFailover(force: boolean): void {
    this.#operatorAsked = true;
    if (force) this.disturbed('force');
  }

  /** The secondary was told by the primary itself that it lives without it. */
  peerProvenAlive(): void {
    this.#provenAlive = true;
  }

  /** A host that serves, as far as it knows, has said so to the other one. */
  toldAlive(): void {
    this.#toldAlive = true;
    this.wasProtectedAtDeath = false;
  }

  /** The guest starts here from its disks: clients know nothing of what was before. */
  boots(side: Side, images: readonly (readonly number[])[]): void {
    this.#bootsFrom(images);
    this.#speaker = side;
    for (const seen of this.#seen) seen.clear();
    this.#heads.clear();
    this.wasProtectedAtDeath = false;
  }

  /** What was acknowledged as written is there; from here on what is there was acknowledged. */
  #bootsFrom(images: readonly (readonly number[])[]): void {
    if (images.length === 0) return;
    for (let flow = 0; flow < CLIENTS_MAX; flow += 1) {
      const found = images[flow % images.length]?.[flow] ?? 0;
      const event = this.#durable.get(flow) ?? 0;
      // A guest that boots begins its history anew, on disks that have an older one.
      const isOlder = event <= this.#lifeBegan;
      const holds = isOlder
        ? found === event || found > this.#lifeBegan
        : this.history.implies(found, event);
      if (this.#truth.hasWitness && !this.#disturbances.has('force') && !holds) {
        const text = `Write ${event} of flow ${flow} was acknowledged, and a boot finds ${found}`;
        throw new Violation('Durability', text);
      }
      this.#durable.set(flow, found);
    }
    this.#lifeBegan = this.history.newest;
  }

  #saw(frame: Frame): void {
    this.#seen[frame.flow]?.add(frame.event);
    const { kind, flow, seq, event } = frame;
    if (kind === 'answer' && seq % 2 === 1 && flow < CLIENTS_MAX) this.#durable.set(flow, event);
  }

  /** No host has anything of the guest: right only if nothing could be held. */
  guestIsGone(): void {
    if (!this.wasProtectedAtDeath || (this.#truth.hasWitness && this.#troubled)) return;
    throw new Violation('Availability', 'A protected guest died and nobody went on with it');
  }

  /** The guest that serves is dead; `state`: its primary's, if there is one. */
  guestEnds(goodbye: GoodbyeKind, state: PrimaryState | undefined): void {
    if (goodbye === 'handover') this.guestGivenUp(state);
    else this.wasProtectedAtDeath = false;
  }

  /** The one that serves speaks no more. */
  guestGivenUp(state: PrimaryState | undefined): void {
    this.#primaryDiedAtUs = this.#truth.nowUs();
    const held = state?.kind === 'session' && state.committed && this.#truth.secondaryStandsBy();
    this.wasProtectedAtDeath = held && !this.#troubled && !this.#provenAlive && !this.#toldAlive;
  }

  /** Something besides may keep the peer from going on. */
  get #troubled(): boolean {
    return [...this.#disturbances].some((kind) => kind !== 'reset' && kind !== 'slow');
  }

  secondaryLost(): void {
    this.wasProtectedAtDeath = false;
  }

  captured(epoch: number, state: GuestState): void {
    if (epoch <= this.#newestCaptured)
      throw new Violation('I5', `Epoch ${epoch} was captured again`);
    if (epoch === this.#committedEpoch) {
      throw new Violation('I5', `Epoch ${epoch} is committed and captured again`);
    }
    this.#newestCaptured = epoch;
    this.#snapshots.set(epoch, state);
    this.#snapshots.delete(epoch - 8);
  }

  /** `prospect`: what the secondary would continue from. */
  committed(epoch: number, prospect: GuestState): void {
    if (this.#committedEpoch !== undefined && epoch <= this.#committedEpoch) {
      throw new Violation('I5', `Epoch ${epoch} is committed after ${this.#committedEpoch}`);
    }
    this.#compare('I2', `Commit of epoch ${epoch}`, prospect, epoch);
    this.#committedEpoch = epoch;
  }

  sentCommitted(epoch: number): void {
    if (epoch !== this.#committedEpoch) {
      throw new Violation(
        'I6',
        `committed ${epoch} is sent, but ${this.#committedEpoch} is committed`,
      );
    }
  }

  applied(epoch: number, state: GuestState): void {
    this.#compare('I2', `Apply of epoch ${epoch}`, state, epoch);
  }

  sentApplied(epoch: number, appliedEpoch: number | undefined): void {
    if (epoch !== appliedEpoch) {
      throw new Violation('I6', `applied ${epoch} is sent, but ${appliedEpoch} is applied`);
    }
  }

  diskBuffersDropped(epoch: number): void {
    if (this.#committedEpoch === undefined || epoch > this.#committedEpoch) {
      throw new Violation('I3', `Overlay and buffer of epoch ${epoch} go before its commit`);
    }
  }

  /** The standby as it lies there between two applies. */
  standby(state: GuestState, appliedEpoch: number): void {
    this.#compare('I2', 'Standby', state, appliedEpoch);
  }

  /** `sessionId` is undefined when there was none yet: the attempt failed. */
  ranAlone(sessionId: number | undefined, reason: string): void {
    if (sessionId !== undefined && this.#truth.undisturbed()) {
      throw new Violation('Availability', `A session ended without a fault: ${reason}`);
    }
    if (sessionId !== this.#sessionId) return;
    this.#ranAlone = reason;
  }

  /** I1, at the primary's TAP. */
  leftPrimary(side: Side, frame: Frame, { state, way, synced }: Departure): void {
    if (state.kind === 'left') throw new Violation('I4', 'A primary that has left speaks');
    this.#maySpeak(side);
    this.#saw(frame);
    // The SVM has said the same, but may have done other things besides.
    if (way === 'gate') this.#heads.add(frame.head);
    if (state.kind !== 'session' || !state.committed) return;
    const committed = this.#committedState();
    if (committed === undefined) throw new Violation('I1', 'Output leaves, nothing is committed');
    if (way === 'confirmed') {
      if (!synced)
        throw new Violation('I6', `Event ${frame.event} leaves before its disk is synced`);
      this.#confirmed(frame, committed);
    } else if (!this.history.implies(headOf(committed), frame.head)) {
      const end = `epoch ${this.#committedEpoch} ends at ${headOf(committed)}`;
      throw new Violation('I1', `Output at ${frame.head} leaves, but ${end}`);
    }
  }

  /** What the secondary would continue from right now has to imply what is said in this flow. */
  #confirmed({ flow, event }: Frame, committed: GuestState): void {
    const survivor = this.#truth.survivor();
    // Dead: its successor will have to imply it, or nobody will succeed.
    if (survivor === undefined) return;
    const applied = survivor.appliedEpoch === this.#committedEpoch;
    const head = applied ? survivor.flowHead(flow) : flowHeadOf(committed, flow);
    if (this.history.implies(head, event)) return;
    throw new Violation('I1', `Event ${event} of flow ${flow} leaves, the SVM is at ${head}`);
  }

  leftSecondary(side: Side, frame: Frame): void {
    this.#maySpeak(side);
    this.#saw(frame);
    this.#heads.add(frame.head);
  }

  #maySpeak(side: Side): void {
    if (side !== this.#speaker)
      throw this.#unless('force', `Host ${side} speaks without promotion`);
    if (this.#truth.otherSpeaks(side)) throw this.#unless('force', 'Two nodes speak');
  }

  #unless(kind: 'force', what: string): Error {
    if (!this.#truth.hasWitness || !this.#disturbances.has(kind)) return new Violation('I4', what);
    return new KnownLimit('two nodes speak: operator forced the failover');
  }

  /**
   * The SVM gets a request; both are counted as they arrived at the primary's host. `unmarked`:
   * nobody knows yet, or ever will, which requests the checkpoint contains; then all are delivered.
   */
  delivered(arrival: number | undefined, received: number | undefined, unmarked: boolean): void {
    if (arrival === undefined || received === undefined || arrival === received + 1) return;
    if (unmarked && arrival <= received) return;
    const what = arrival > received ? 'some are lost' : 'that is once too often';
    throw new Violation('Inbound', `The SVM gets request ${arrival} after ${received}: ${what}`);
  }

  /** The promoted guest has got all that it will get of what was mirrored. */
  caughtUp(newest: number, received: number | undefined): void {
    if (received === undefined || received >= newest) return;
    throw new Violation('Inbound', `Promoted with ${received} requests, but ${newest} were there`);
  }

  /** The secondary opens its TAP with this state. `ran`: since the last checkpoint. */
  promoting(side: Side, state: GuestState, ran: boolean): void {
    this.promotions += 1;
    if (ran) this.promotionsOfRunning += 1;
    this.#mayPromote(side);
    this.#promotesInTime();
    const committed = this.#committedState();
    if (committed === undefined) throw new Violation('I2', 'Promotion without a committed epoch');
    if (!ran) {
      this.#compare('I2', 'Promotion', state, this.#committedEpoch as number);
    } else if (!this.history.implies(headOf(state), headOf(committed))) {
      throw new Violation('I2', `Promotion of ${headOf(state)} without ${headOf(committed)}`);
    }
    const lost = lostWriteOf(state);
    if (lost !== undefined) throw new Violation('I3', `Promotion with a torn disk: ${lost}`);
    this.#nothingLost(side, state);
    if (this.#truth.otherSpeaks(side)) throw this.#limit(side, 'live primary');
    this.#speaker = side;
    this.wasProtectedAtDeath = false;
  }

  /** At the end: everything that clients have seen is the past of the one who serves them now. */
  oneHistory(state: GuestState): void {
    const undone = this.#undone(state);
    if (undone !== undefined) throw new Violation('History', `${undone} was seen, then undone`);
    const lost = lostWriteOf(state);
    if (lost !== undefined) throw new Violation('History', `A write is lost: ${lost}`);
  }

  #committedState(): GuestState | undefined {
    return this.#committedEpoch === undefined
      ? undefined
      : this.#snapshots.get(this.#committedEpoch);
  }

  #compare(invariant: string, what: string, got: GuestState, epoch: number): void {
    const want = this.#snapshots.get(epoch);
    if (want === undefined) throw new Violation(invariant, `${what}: epoch ${epoch} is unknown`);
    const difference = differenceOf(got, want);
    if (difference !== undefined) {
      throw new Violation(invariant, `${what} against epoch ${epoch}: ${difference}`);
    }
  }

  #mayPromote(side: Side): void {
    if (this.#truth.onlyPoweredOff()) {
      throw new Violation('Availability', 'Promotion of a guest that has powered itself off');
    }
    if (this.#provenAlive && !this.#disturbances.has('force')) {
      throw new Violation('I4', 'Promotion although the primary has shown that it lives');
    }
    if (
      this.#truth.onPeerLoss() === 'wait' &&
      !this.#operatorAsked &&
      this.#truth.otherSpeaks(side)
    ) {
      throw new Violation('I4', 'Promotion in wait mode without the operator');
    }
  }

  /** Demanded where it matters most: a protected primary died, and nothing else went wrong. */
  #promotesInTime(): void {
    if (!this.wasProtectedAtDeath || this.#disturbances.size > 0) return;
    if (this.#truth.onPeerLoss() === 'wait') return;
    const tookUs = this.#truth.nowUs() - this.#primaryDiedAtUs;
    if (tookUs > this.#truth.promotionWithinUs()) {
      throw new Violation('Availability', `Promotion took ${tookUs} us after the primary's death`);
    }
  }

  /** All that was seen is the past of the promoted state, or the primary had run on alone. */
  #nothingLost(side: Side, state: GuestState): void {
    const undone = this.#undone(state);
    if (undone === undefined) return;
    if (this.#ranAlone === undefined || this.#truth.hasWitness) {
      if (this.#disturbances.has('force'))
        throw this.#limit(side, 'primary ran alone unseen, then');
      throw new Violation('I1', `${undone} was seen and is lost by the promotion`);
    }
    throw this.#limit(side, `primary ran alone unseen, then`);
  }

  /** Something that was seen and that is not the past of this state, in words. */
  #undone(state: GuestState): string | undefined {
    for (const [flow, seen] of this.#seen.entries()) {
      const past = this.history.past(flowHeadOf(state, flow));
      for (const event of seen) if (!past.has(event)) return `Event ${event} of flow ${flow}`;
    }
    const past = this.history.past(headOf(state));
    for (const head of this.#heads) if (!past.has(head)) return `Event ${head}`;
    return undefined;
  }

  #limit(side: Side, what: string): Error {
    const causes = this.#disturbances;
    if (causes.has('force')) return new KnownLimit(`${what}: operator forced the failover`);
    if (this.#truth.onPeerLoss() === 'wait' && this.#truth.otherSpeaks(side)) {
      return new Violation('I4', 'Two nodes speak in wait mode');
    }
    if (this.#truth.hasWitness) return new Violation('I4', `With a witness: ${what}`);
    if (this.#truth.recently('partition'))
      return new KnownLimit(`${what}: partition without witness`);
    if (this.#truth.recently('stop'))
      return new KnownLimit(`${what}: stopped node without witness`);
    const reason = this.#ranAlone ?? 'no reason known';
    return new Violation('I4', `Promotion, ${what} (${[...causes].join(', ')}; ${reason})`);
  }
}

/** Running digest of RAM frames, as both sides compute it. */
export function digestPages(digest: number, pages: readonly (readonly [number, number])[]): number {
  return crc32c(Buffer.from(Int32Array.from(pages.flat()).buffer), digest);
}
