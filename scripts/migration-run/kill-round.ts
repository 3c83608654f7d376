/**
 * A host of a precopy dies at one of its stages: everything that runs there is killed at once. Its
 * agent is started again, and whatever docs/migration.md leaves to an operator is done as it says.
 * Then exactly one guest must be left, at the host whose it is; nobody else may ever have spoken.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay, setImmediate as nextTurn } from 'node:timers/promises';
import { describeError, type Prng } from '../../src/lib/index.js';
import { nowUs } from '../clients/clock.js';
import type { AgentStatus } from '../harness/agent-control.js';
import type { ClientProcess } from '../harness/client-process.js';
import { type HostName, signalAll } from '../harness/lab.js';
import { LanSniffer } from '../harness/lan-sniffer.js';
import { colo, migrate, runsHere, speakers } from '../harness/migration.js';
import { type Kill, nameOfKill, type Stage } from './cells.js';
import { judgeKill, type KillFacts } from './judge-kill.js';
import { type LabContext, MovableLab } from './movable-lab.js';

/** Pages take some seconds. */
const RATE = '24MiB';
/** How long after its beginning a stage is hit at the latest, about as long as it takes. */
const WITHIN_MS: Readonly<Record<Stage, number>> = {
  greeting: 300,
  precopy: 3000,
  switching: 150,
  loading: 150,
  'given-up': 4,
  owns: 4,
};
const STAGE_DEADLINE_MS = 60_000;
const SETTLED_DEADLINE_MS = 120_000;
const STATUS_DEADLINE_MS = 2000;
const POLL_MS = 20;
/**
 * Refusals that are looked at again. Until its session is lost, too, a destination does not take
 * the place of its source. What the hosts have settled meanwhile is not to be decided any more.
 */
const PASSING = /connected|moves no guest/;
/** A stage that was over before its kill is no result. */
const TRIES = 5;

export interface KillResult {
  readonly kill: string;
  readonly round: number;
  readonly tries: number;
  /** What the hosts had written down when it was done. */
  readonly records: string;
  readonly end: HostName | 'none';
  readonly decisions: readonly string[];
  readonly seconds: number;
  readonly problems: readonly string[];
}

/** Never rejects: what breaks off is a problem of the round. */
export async function killRound(
  context: LabContext,
  { kill, round, prng }: { readonly kill: Kill; readonly round: number; readonly prng: Prng },
): Promise<KillResult> {
  const startUs = nowUs();
  const result = (
    tries: number,
    facts: KillFacts | undefined,
    problems: readonly string[],
  ): KillResult => ({
    ...{ kill: nameOfKill(kill), round, tries, problems },
    records: facts === undefined ? '' : `${facts.sourceRecord}, ${facts.destinationRecord}`,
    end: facts?.runningAt.length === 1 ? (facts.runningAt[0] ?? 'none') : 'none',
    decisions: facts?.decisions ?? [],
    seconds: Math.round((nowUs() - startUs) / 1e5) / 10,
  });
  for (let tries = 1; tries <= TRIES; tries += 1) {
    let lab: MovableLab | undefined;
    let facts: KillFacts | undefined;
    let problems: readonly string[];
    try {
      lab = await MovableLab.up(context, { security: 'plain', verify: true });
      facts = await tryOnce(lab, kill, prng);
      problems = facts === undefined ? [] : judgeKill(facts);
    } catch (error) {
      problems = [`Broke off: ${describeError(error)}`];
    }
    if (problems.length > 0) lab?.keepLogs();
    await lab?.down();
    if (facts !== undefined || problems.length > 0) return result(tries, facts, problems);
  }
  return result(TRIES, undefined, ['The stage was always over before the kill']);
}

/** Undefined: the migration was over before the kill. */
async function tryOnce(lab: MovableLab, kill: Kill, prng: Prng): Promise<KillFacts | undefined> {
  const { pair, cleanup } = lab;
  const sniffer = new LanSniffer(pair, cleanup);
  const clients = await lab.startClients(['stream']);
  await clients.waitSuccesses({ names: ['stream'], afterUs: 0, count: 5 });
  const victim: HostName = kill.side === 'source' ? 'hosta' : 'hostb';
  const moving = migrate(pair, 'hosta', 'hostb', ['--max-bandwidth', RATE]);
  const pids = await untilStage(lab, kill, victim);
  await delay(prng.nextFloat() * WITHIN_MS[kill.stage]);
  if (!pair.runs('hosta')) return undefined;
  signalAll(pids, 'SIGKILL');
  // What has been started since.
  await pair.kill(victim);
  const [sourceRecord, destinationRecord] = [await lab.record('hosta'), await lab.record('hostb')];
  if (await isOver(lab, victim)) return undefined;
  await pair.restart(victim);
  const decisions = await settle(lab);
  await moving;
  if (decisions === undefined) return undefined;
  await pair.waitGuest();
  const runningAt = await speakers(pair);
  const isSame = await lab.pattern.isWhole().catch(() => false);
  const emulators: HostName[] = [];
  for (const host of ['hosta', 'hostb'] as const) {
    if (await runsHere(pair, host)) emulators.push(host);
  }
  await sniffer.stop();
  return {
    ...{ kill, sourceRecord, destinationRecord, decisions, runningAt, emulators, isSame },
    heard: sniffer.speakers(),
    clients: await reportsOf(clients, isSame),
  };
}

/** A guest that was booted anew has none of its connections; there is nothing to be read back. */
async function reportsOf(clients: ClientProcess, isSame: boolean) {
  if (isSame) return await clients.stop();
  clients.kill();
  return undefined;
}

/** The kill came too late. The source's agent ends when the destination has all. */
async function isOver(lab: MovableLab, victim: HostName): Promise<boolean> {
  const { pair } = lab;
  // It keeps what it has of the guest before it ends.
  if (await saysMoved(lab)) return true;
  if (victim === 'hosta') return false;
  if (!pair.runs('hosta')) return true;
  const status = await pair.status('hosta').catch(() => undefined);
  return status === undefined;
}

/** Gives the victim's processes, so that nothing is between the stage and the kill. */
async function untilStage(
  lab: MovableLab,
  { stage }: Kill,
  victim: HostName,
): Promise<readonly number[]> {
  const { pair } = lab;
  const state = async (): Promise<string> => {
    return (await pair.status('hosta').catch(() => undefined))?.migration?.state ?? 'none';
  };
  await until(async () => (await state()) !== 'none', 'the migration begins');
  if (stage === 'greeting') return await pair.lab[victim].pids();
  await until(async () => !['greeting', 'idle'].includes(await state()), 'pages are sent');
  const pids = await pair.lab[victim].pids();
  if (stage === 'precopy') return pids;
  const reached = (stages: readonly string[]) => async () => !stages.includes(await state());
  await until(reached(['precopy', 'comparing']), 'the guest is paused');
  if (stage === 'loading') await until(reached(['switching']), 'all is sent');
  if (stage === 'given-up') await until(async () => recordNow(lab, 'hosta') === stage, stage);
  if (stage === 'owns') await until(async () => recordNow(lab, 'hostb') === stage, stage);
  return pids;
}

/** What is awaited is there for a millisecond or two. */
function recordNow({ pair }: MovableLab, host: HostName): string {
  try {
    const path = join(pair.directory, host, 'state', 'demo.migration');
    return (JSON.parse(readFileSync(path, 'utf8')) as { what: string }).what;
  } catch {
    return 'none';
  }
}

async function until(holds: () => Promise<boolean>, what: string): Promise<void> {
  const untilUs = nowUs() + STAGE_DEADLINE_MS * 1000;
  while (!(await holds())) {
    if (nowUs() > untilUs) throw new Error(`Not within ${STAGE_DEADLINE_MS / 1000} s: ${what}`);
    await nextTurn();
  }
}

/**
 * Waits until one host has the guest and the other has not, and does what an operator would who has
 * read docs/migration.md; gives what that was. Undefined: the move was over before the kill, for
 * which a look right after it came too early.
 */
async function settle(lab: MovableLab): Promise<string[] | undefined> {
  const { pair } = lab;
  const decisions: string[] = [];
  const untilUs = nowUs() + SETTLED_DEADLINE_MS * 1000;
  /** False: it was refused as the guest's shared disk has gone on without it. */
  const decide = async (host: HostName, command: string): Promise<boolean> => {
    const { code, err } = await colo(pair, host, command.split(' '));
    if (code === 0) decisions.push(`${command} at ${host}`);
    else if (/was written to/.test(err)) return false;
    else if (!PASSING.test(err)) throw new Error(`${command} at ${host}: ${err}`);
    return true;
  };
  let last = '';
  while (nowUs() < untilUs) {
    const [here, there] = [await statusOf(lab, 'hosta'), await statusOf(lab, 'hostb')];
    const isHere = here?.role === 'primary' && here.migration === null && here.state !== 'joining';
    const isThere = there?.role === 'primary';
    const isEmptyThere = there?.role === 'secondary' && there.migration === null;
    const hasGivenUp = /given the guest up/.test(here?.lastFailure ?? '');
    if (isHere && isEmptyThere) return decisions;
    if (isThere && (hasGivenUp || !pair.runs('hosta'))) return decisions;
    if (!pair.runs('hosta') && (await wasMoved(lab))) return undefined;
    if (there?.migration?.state === 'loaded') {
      if (isHere) await decide('hostb', 'migrate-cancel');
      else if (hasGivenUp) await decide('hostb', 'migrate-force');
    }
    if (hasGivenUp && isEmptyThere) await decide('hosta', 'failover --force');
    if (/operator to decide/.test(here?.lastFailure ?? '')) {
      if (await decide('hosta', 'migrate-force')) continue;
      await decide('hosta', 'migrate-release');
      await pair.waitEnded('hosta');
      await pair.restart('hosta');
    }
    last = [here, there].map(describe).join('; ');
    await delay(POLL_MS);
  }
  throw new Error(`No host has the guest alone: ${last}`);
}

/** Both hosts have said so: the guest that was lost afterwards was the destination's alone. */
async function wasMoved(lab: MovableLab): Promise<boolean> {
  return (await saysMoved(lab)) && (await lab.log('hostb')).includes('The guest runs here');
}

async function saysMoved(lab: MovableLab): Promise<boolean> {
  return (await lab.log('hosta')).includes('The guest has been moved');
}

async function statusOf({ pair }: MovableLab, host: HostName): Promise<AgentStatus | undefined> {
  return await pair.status(host, STATUS_DEADLINE_MS).catch(() => undefined);
}

function describe(status: AgentStatus | undefined): string {
  if (status === undefined) return 'no answer';
  const { role, state, migration, lastFailure } = status;
  return `${role}, ${state}, migration ${migration?.state ?? 'none'}, ${lastFailure ?? 'no failure'}`;
}
