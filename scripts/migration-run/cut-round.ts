/**
 * A guest goes to and fro between two hosts by postcopy, and in each move the link between them is
 * cut once. It comes back, and the move goes on by itself; or it does not, and the backup file that
 * the source has written completes the guest. Either way RAM is what it was at the switchover, and
 * a pattern that the guest has in memory all the time stays as it is.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { describeError, type Prng } from '../../src/lib/index.js';
import { nowUs } from '../clients/clock.js';
import { run } from '../harness/child.js';
import { type HostName, REPLICATION_ADDRESS } from '../harness/lab.js';
import { colo, migrate, type Outcome, setLink } from '../harness/migration.js';
import { judgeRam } from './judge.js';
import { type LabContext, MovableLab } from './movable-lab.js';

/** What is left of memory takes some seconds, all of which can be met. */
const RATE = '16MiB';
const CUT_MS_MIN = 1000;
/** Cuts are not wanted where nothing is left to be sent. */
const SENT_MAX = 0.97;
/** What the guest writes all the while, and to how much of its memory. */
const LOAD = 'scribble 8 16';
/** Until the source of a cut that lasts writes the backup file. */
const RECOVER_TIMEOUT = '2s';
/** A destination whose source has not let go waits for longer than that. */
const GOES_ON_MS = 60_000;
const POLL_MS = 5;
const MENDED_S = 20;
const RUNNING_DEADLINE_MS = 60_000;

export interface CutResult {
  readonly cut: number;
  readonly lasting: boolean;
  /** Of what was missing at the switchover, when the link went down. */
  readonly sentPart: number | null;
  /** Null: for good. */
  readonly cutMs: number | null;
  readonly missingMib: number | null;
  readonly seconds: number;
  readonly problems: readonly string[];
}

export interface CutWish {
  readonly cut: number;
  readonly lasting: boolean;
  readonly cutMsMax: number;
}

/** One lab, for as long as all goes well in it. */
export class CutLab {
  readonly #context: LabContext;
  #lab: MovableLab | undefined;
  #at: HostName = 'hosta';

  constructor(context: LabContext) {
    this.#context = context;
  }

  /** Never rejects: what breaks off is a problem of the round. `prng` decides all of it. */
  async round(wish: CutWish, prng: Prng): Promise<CutResult> {
    const startUs = nowUs();
    const problems: string[] = [];
    const seen = { sentPart: null, cutMs: null, missingMib: null };
    try {
      this.#lab ??= await this.#bringUp();
      await this.#move(this.#lab, wish, { prng, problems, seen });
    } catch (error) {
      problems.push(`Broke off: ${describeError(error)}`);
    }
    if (problems.length > 0) {
      this.#lab?.keepLogs();
      await this.finish();
    }
    const { cut, lasting } = wish;
    const seconds = Math.round((nowUs() - startUs) / 1e5) / 10;
    return { cut, lasting, ...seen, seconds, problems };
  }

  /** Idempotent. */
  async finish(): Promise<void> {
    const lab = this.#lab;
    this.#lab = undefined;
    await lab?.down();
  }

  async #bringUp(): Promise<MovableLab> {
    const lab = await MovableLab.up(this.#context, { security: 'plain', verify: true });
    this.#at = 'hosta';
    const control = lab.pair.control();
    await control.command(LOAD);
    control.close();
    return lab;
  }

  async #move(lab: MovableLab, wish: CutWish, round: Round): Promise<void> {
    const { pair } = lab;
    const { problems } = round;
    const from = this.#at;
    const to = from === 'hosta' ? 'hostb' : 'hosta';
    if (!pair.runs(to)) await (to === 'hosta' ? pair.startWaiting() : pair.startSecondary());
    const logged = (await lab.log(to)).length;
    const flags = ['--postcopy', '--max-bandwidth', RATE];
    if (wish.lasting) flags.push('--recover-timeout', RECOVER_TIMEOUT);
    const outcome = migrate(pair, from, to, flags);
    await cutLink(lab, to, { wish, round, outcome });
    if (wish.lasting) await completeFromFile(lab, { from, to });
    else {
      await delay(round.seen.cutMs ?? 0);
      await setLink(pair, 'up');
    }
    const mendedUs = nowUs();
    if (!(await lab.pattern.isWhole())) problems.push('Memory of the guest is not what it was');
    if (wish.lasting) await release(lab, { from, to });
    const { code, out, err } = await outcome;
    if (code !== 0) problems.push(`colo migrate: ${out}${err}`);
    const ended = await pair.ended(from);
    if (ended !== 0) problems.push(`The source's agent ended with ${ended}`);
    await pair.waitStatus(to, 'it is the primary', ({ migration, state }) => {
      return migration === null && state !== 'receiving';
    });
    const tookMs = (nowUs() - mendedUs) / 1000;
    if (tookMs > GOES_ON_MS) problems.push(`It took ${Math.round(tookMs)} ms more to its end`);
    if (wish.lasting) await mendLink(lab);
    problems.push(...judgeRam((await lab.log(to)).slice(logged)));
    this.#at = to;
  }
}

interface Round {
  readonly prng: Prng;
  readonly problems: string[];
  readonly seen: { sentPart: number | null; cutMs: number | null; missingMib: number | null };
}

/** Once some part of what was missing at the switchover has come. */
async function cutLink(
  lab: MovableLab,
  to: HostName,
  about: { readonly wish: CutWish; readonly round: Round; readonly outcome: Promise<Outcome> },
): Promise<void> {
  const { prng, seen } = about.round;
  const wanted = prng.nextFloat() * SENT_MAX;
  if (!about.wish.lasting) seen.cutMs = prng.nextInt(CUT_MS_MIN, about.wish.cutMsMax);
  let over: Outcome | undefined;
  void about.outcome.then((end) => {
    over = end;
  });
  const untilUs = nowUs() + RUNNING_DEADLINE_MS * 1000;
  let atFirst: number | undefined;
  for (;;) {
    if (over !== undefined) throw new Error(`It was over before its cut: ${over.err}`);
    if (nowUs() > untilUs) throw new Error('The guest does not run at the destination');
    const { migration } = await lab.pair.status(to);
    if (migration?.state === 'running') {
      const left = migration.totalBytes - migration.doneBytes;
      atFirst ??= left;
      if (left <= atFirst * (1 - wanted)) break;
    }
    await delay(POLL_MS);
  }
  await setLink(lab.pair, 'down');
  // Nothing comes any more: what is missing now is missing until the end.
  const { migration } = await lab.pair.status(to);
  const left = migration === null ? 0 : migration.totalBytes - migration.doneBytes;
  seen.sentPart = Math.round((1 - left / atFirst) * 1000) / 1000;
  seen.missingMib = Math.round((left / 1024 ** 2) * 10) / 10;
  if (left === 0) about.round.problems.push('Nothing was missing when the link was cut');
}

interface Ends {
  readonly from: HostName;
  readonly to: HostName;
}

async function completeFromFile({ pair }: MovableLab, { from, to }: Ends): Promise<void> {
  const named = /migrate-finish --from (\S+\.pages)/;
  const { lastFailure } = await pair.waitStatus(from, 'the file is named', (status) => {
    return named.test(status.lastFailure ?? '');
  });
  await decide(pair, to, ['migrate-finish', '--from', named.exec(lastFailure ?? '')?.[1] ?? '']);
}

/** The kernel takes its time until both ends have noticed. */
async function mendLink({ pair }: MovableLab): Promise<void> {
  await setLink(pair, 'up');
  for (const host of ['hosta', 'hostb'] as const) {
    const other = REPLICATION_ADDRESS[host === 'hosta' ? 'hostb' : 'hosta'];
    await run([...pair.lab[host].enter, 'ping', '-c', '1', '-w', String(MENDED_S), other]);
  }
}

async function release({ pair }: MovableLab, { from, to }: Ends): Promise<void> {
  await decide(pair, from, ['migrate-release']);
  await decide(pair, to, ['migrate-release']);
}

async function decide(pair: MovableLab['pair'], host: HostName, command: string[]): Promise<void> {
  const { code, out, err } = await colo(pair, host, command);
  if (code !== 0) throw new Error(`${command.join(' ')}: ${out}${err}`);
}
