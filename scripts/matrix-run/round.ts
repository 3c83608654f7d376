/**
 * Rounds of the fault matrix: load, a fault at some moment, what the pair makes of it, repair, and
 * the pair protected again, so that the next round can follow in the same lab with the roles as
 * they are then. A pair that did something else is given up, and another one brought up.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { describeError, type Prng } from '../../src/lib/index.js';
import { type ClientEvent, TIMED_CLIENTS, type TimedClientName } from '../clients/client.js';
import { nowUs } from '../clients/clock.js';
import { type AgentStatus, isProtected } from '../harness/agent-control.js';
import type { Cleanup } from '../harness/cleanup.js';
import { ClientProcess } from '../harness/client-process.js';
import { GUEST_ADDRESS, type HostName } from '../harness/lab.js';
import { type Cell, judgedClients, nameOf, type Outcome } from './cells.js';
import { type Broken, breakIt } from './faults.js';
import { type ClientGap, judgeRound, lostOf } from './judge.js';
import { type MatrixContext, MatrixLab } from './matrix-lab.js';
import { otherOf } from './network.js';

/** Gaps from here on are told by the clients; a fetch every 100 ms leaves smaller ones. */
const TELL_GAP_MS = 200;
const WARM_UP_MS = 1000;
/** The load runs at least so long before a fault. */
const LOAD_MS = 500;
/** Far above any outage that is right, so that the figure says how wrong it is. */
const REACTION_DEADLINE_MS = 30_000;
const SERVICE_DEADLINE_MS = 30_000;
const HEALING_DEADLINE_MS = 60_000;
/** How long a fault lasts once the pair has done what is right: it may change its mind. */
const LASTS_MS: Readonly<Record<Outcome, number>> = {
  failover: 500,
  alone: 1500,
  reprotects: 0,
  protected: 3000,
  stays: 6000,
};
const POLL_MS = 20;
const SUCCESSES = 2;
/** Of an agent that was stopped together with its host; those that live take no longer. */
const STATUS_DEADLINE_MS = 1000;

export interface RoundResult {
  readonly cell: string;
  readonly round: number;
  /** Of `TIMED_CLIENTS`; below TELL_GAP_MS it is 0. */
  readonly outageMs: number;
  readonly laterMs: number;
  readonly boundMs: number;
  /** From the fault to the pair's reaction, and from the repair to protection, as far as seen. */
  readonly reactionMs: number | null;
  readonly healingMs: number | null;
  readonly acknowledgedLost: number | null;
  readonly connectionsLost: number;
  readonly speakers: readonly HostName[];
  readonly seconds: number;
  /** The next round may have this pair: it is protected, and did nothing that was not expected. */
  readonly goesOn: boolean;
  readonly problems: readonly string[];
}

/** A client that reported; `lost` of one connection. */
interface Watched {
  readonly gaps: ClientGap[];
  readonly lost: string[];
}

export class FaultMatrix {
  readonly #context: MatrixContext & { readonly prng: Prng; readonly tell: (text: string) => void };
  #lab: MatrixLab | undefined;
  #cleanup: Cleanup | undefined;
  /** Directories that were kept. */
  readonly kept: string[] = [];

  constructor(
    context: MatrixContext & { readonly prng: Prng; readonly tell: (text: string) => void },
  ) {
    this.#context = context;
  }

  /** Never rejects but after a signal: what breaks off is a problem of its round. */
  async round(cell: Cell, round: number): Promise<RoundResult> {
    const startUs = nowUs();
    let result: Omit<RoundResult, 'seconds'>;
    try {
      this.#lab ??= await this.#bringUp();
      result = await new Round(this.#lab, { ...this.#context, cell, round }).run();
      if (this.interrupted) throw new Error('A signal came');
    } catch (error) {
      if (this.interrupted) throw error;
      result = brokenOff(cell, round, describeError(error));
    }
    if (result.problems.length > 0) this.#keepLogs();
    if (!result.goesOn) await this.finish();
    return { ...result, seconds: Math.round((nowUs() - startUs) / 1e5) / 10 };
  }

  /** Idempotent. */
  async finish(): Promise<void> {
    const lab = this.#lab;
    this.#lab = undefined;
    await lab?.down();
  }

  /** A signal came, and its handler takes everything down. */
  get interrupted(): boolean {
    return this.#cleanup?.interrupted === true;
  }

  async #bringUp(): Promise<MatrixLab> {
    this.#context.tell('a pair is brought up');
    return MatrixLab.up(this.#context, (cleanup) => {
      this.#cleanup = cleanup;
    });
  }

  #keepLogs(): void {
    const pair = this.#lab?.pair;
    if (pair === undefined || this.kept.includes(pair.directory)) return;
    pair.keepFiles('logs');
    this.kept.push(pair.directory);
    this.#context.tell(`logs are kept in ${pair.directory}`);
  }
}

function brokenOff(cell: Cell, round: number, why: string): Omit<RoundResult, 'seconds'> {
  return {
    ...{ cell: nameOf(cell), round, outageMs: 0, laterMs: 0, boundMs: 0 },
    ...{ reactionMs: null, healingMs: null, acknowledgedLost: null, connectionsLost: 0 },
    speakers: [],
    goesOn: false,
    problems: [`The round broke off: ${why}`],
  };
}

class Round {
  readonly #lab: MatrixLab;
  readonly #context: MatrixContext & {
    readonly prng: Prng;
    readonly cell: Cell;
    readonly round: number;
  };
  readonly #failures: string[] = [];
  readonly #seen: Watched = { gaps: [], lost: [] };

  constructor(
    lab: MatrixLab,
    context: MatrixContext & {
      readonly prng: Prng;
      readonly cell: Cell;
      readonly round: number;
    },
  ) {
    this.#lab = lab;
    this.#context = context;
  }

  async run(): Promise<Omit<RoundResult, 'seconds'>> {
    const { cell, round, options, prng } = this.#context;
    const { sniffer } = this.#lab;
    const before = await this.#protectedOn();
    const clients = await this.#startClients();
    try {
      sniffer.forget();
      const lossesBefore = (await this.#lab.pair.status(before)).checkpoints.failed;
      await delay(LOAD_MS + prng.nextFloat() * options.periodMs);
      const host = cell.side === 'primary' ? before : otherOf(before);
      const broken = await breakIt(this.#lab, cell.fault, { host, primary: before });
      const reaction = { before, lossesBefore, brokenUs: broken.atUs };
      const reactionMs = await this.#lastingFault(clients, broken, reaction);
      const mendedUs = nowUs();
      await this.#mend(broken);
      const after = await this.#try('protected again', () => this.#protectedOn());
      const healingMs = after === undefined ? null : sinceMs(mendedUs);
      await this.#served(clients, nowUs());
      const reports = await this.#try('reports', () => clients.stop());
      const { redis, stream } = reports ?? {};
      if (stream !== undefined && stream.missing + stream.repeats + stream.malformed > 0) {
        const { missing, repeats, malformed } = stream;
        this.#failures.push(`Stream: ${missing} missing, ${repeats} twice, ${malformed} malformed`);
      }
      const facts = {
        ...{ cell, peerTimeoutMs: options.peerTimeoutMs },
        ...{ holdLimitMs: options.holdLimitMs, slackMs: options.slackMs },
        ...{ faultUs: broken.atUs, mendedUs, before, after: after ?? before },
        ...{ gaps: this.#seen.gaps, lostConnections: this.#seen.lost },
        acknowledgedLost: redis?.acknowledgedLost,
        ...{ speakers: sniffer.speakers(), heard: sniffer.story() },
        failures: this.#failures,
      };
      const verdict = judgeRound(facts);
      return {
        ...{ cell: nameOf(cell), round, ...verdict, reactionMs, healingMs },
        acknowledgedLost: facts.acknowledgedLost ?? null,
        connectionsLost: lostOf(facts).length,
        speakers: facts.speakers,
        goesOn: healingMs !== null && this.#failures.length === 0,
      };
    } finally {
      clients.kill();
    }
  }

  /** Resolves to the time that the pair's reaction took, if it was the right one. */
  async #lastingFault(
    clients: ClientProcess,
    broken: Broken,
    about: { before: HostName; lossesBefore: number; brokenUs: number },
  ): Promise<number | null> {
    const { expected } = this.#context.cell;
    let reactionMs: number | null = null;
    await this.#try(`the pair's reaction (${expected})`, async () => {
      await this.#reaction(expected, about);
      reactionMs = sinceMs(broken.atUs);
    });
    await this.#served(clients, nowUs());
    await delay(LASTS_MS[expected]);
    await this.#try('what lasts', () => this.#unchanged(expected, about));
    return reactionMs;
  }

  async #reaction(
    expected: Outcome,
    { before, lossesBefore }: { before: HostName; lossesBefore: number },
  ): Promise<void> {
    const { pair } = this.#lab;
    const other = otherOf(before);
    const hasLost = ({ checkpoints }: AgentStatus): boolean => checkpoints.failed > lossesBefore;
    switch (expected) {
      case 'failover': {
        const took = ({ role }: AgentStatus): boolean => role === 'primary';
        await pair.waitStatus(other, 'it takes over', took, REACTION_DEADLINE_MS);
        return;
      }
      case 'alone':
      case 'reprotects':
        await pair.waitStatus(before, 'it misses the other', hasLost, REACTION_DEADLINE_MS);
        if (expected === 'reprotects') {
          await pair.waitStatus(before, 'protected again', isProtected, HEALING_DEADLINE_MS);
        }
        return;
      case 'protected':
      case 'stays':
        return;
    }
  }

  /** Throws if the pair did something else in the end. */
  async #unchanged(
    expected: Outcome,
    { before, lossesBefore }: { before: HostName; lossesBefore: number },
  ): Promise<void> {
    if (expected === 'failover') return;
    const { role, state, checkpoints, lastFailure } = await this.#lab.pair.status(before);
    const why = lastFailure === null ? '' : ` (${lastFailure})`;
    if (role !== 'primary') throw new Error(`${before} is a ${role} that is ${state}${why}`);
    const lost = checkpoints.failed > lossesBefore;
    if (expected === 'protected' && (lost || state !== 'protected')) {
      throw new Error(`The session was lost; ${before} is ${state}${why}`);
    }
  }

  async #mend(broken: Broken): Promise<void> {
    const { pair } = this.#lab;
    await broken.mend();
    for (const host of ['hosta', 'hostb'] as const) {
      if (!pair.runs(host)) await this.#try(`${host} starts`, () => pair.restart(host));
    }
  }

  /** Waits until one host runs the guest, protected and without the witness's help. */
  async #protectedOn(): Promise<HostName> {
    const { pair } = this.#lab;
    const untilUs = nowUs() + HEALING_DEADLINE_MS * 1000;
    let last = '';
    while (nowUs() < untilUs) {
      if (this.#lab.cleanup.interrupted) throw new Error('A signal came');
      const told: string[] = [];
      for (const host of ['hosta', 'hostb'] as const) {
        if (!pair.runs(host)) await pair.restart(host);
        const status = await pair.status(host, STATUS_DEADLINE_MS).catch(() => undefined);
        if (status === undefined) told.push(`${host} does not answer`);
        else {
          if (isProtected(status) && status.speech?.granted !== true) return host;
          const { role, state, lastFailure } = status;
          const why = lastFailure === null ? '' : ` (${lastFailure})`;
          told.push(`${host} is a ${role} that is ${state}${why}`);
        }
      }
      last = told.join('; ');
      await delay(POLL_MS);
    }
    throw new Error(`Not within ${HEALING_DEADLINE_MS / 1000} s: ${last}`);
  }

  async #startClients(): Promise<ClientProcess> {
    const { pair } = this.#lab;
    return ClientProcess.start({
      enter: pair.lab.client.enter,
      buildDir: pair.buildDir,
      target: GUEST_ADDRESS,
      clients: TIMED_CLIENTS,
      logPath: `${pair.directory}/clients.log`,
      args: ['--gap-ms', String(TELL_GAP_MS), '--warm-up-ms', String(WARM_UP_MS)],
      onEvent: (event) => this.#onEvent(event),
    });
  }

  #onEvent(event: ClientEvent): void {
    if (event.type === 'lost') this.#seen.lost.push(`${event.client}: ${event.reason}`);
    else this.#seen.gaps.push({ client: event.client as TimedClientName, ...event.gap });
  }

  async #served(clients: ClientProcess, afterUs: number): Promise<void> {
    const names = judgedClients(this.#context.cell);
    const wanted = { names, afterUs, count: SUCCESSES };
    await this.#try('the clients are served', () =>
      clients.waitSuccesses({ ...wanted, deadlineMs: SERVICE_DEADLINE_MS }),
    );
  }

  /** What does not come about is a problem of the round, which goes on to mend what it broke. */
  async #try<T>(what: string, work: () => Promise<T>): Promise<T | undefined> {
    try {
      return await work();
    } catch (error) {
      this.#failures.push(`Not so: ${what}: ${describeError(error)}`);
      return undefined;
    }
  }
}

function sinceMs(fromUs: number): number {
  return Math.round((nowUs() - fromUs) / 1000);
}
