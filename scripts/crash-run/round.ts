/**
 * Rounds of the crash test: a protected pair, load, a power cut, and then everything that is left
 * is looked at. A pair is used again where the guest lives on or can be booted from what is left;
 * the ledger grows with it, so what an earlier round settled is checked again by all later ones.
 *
 * | fault     | what is looked at                                                                |
 * | --------- | -------------------------------------------------------------------------------- |
 * | primary   | the dead host's image; the guest on the survivor; its image after a power-off    |
 * | secondary | the dead host's image with its journal; the guest, which runs on                 |
 * | both      | both hosts' images, each alone; the guest booted from the primary's              |
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { Prng } from '../../src/lib/index.js';
import { Cleanup } from '../harness/cleanup.js';
import { GuestControl } from '../harness/guest-control.js';
import type { GuestFiles } from '../harness/guest-files.js';
import { GUEST_ADDRESS, type HostName, signalAll } from '../harness/lab.js';
import type { Mode } from '../harness/modes.js';
import { PairLab } from '../harness/pair-lab.js';
import { readGuest, Writers } from './clients.js';
import { type CheckpointEvent, locate, type Position, parseLog } from './epoch-log.js';
import { type CrashedImage, checkImage, dispose, takeImage } from './image-check.js';
import { type Bounds, countWrites, EVERYTHING, Ledger } from './ledger.js';
import { drawMoment, type Moment, waitMoment } from './moment.js';
import type { CrashOptions, Fault } from './options.js';

const MEMORY_MIB = 256;
/** The load runs so many periods before a fault, and not shorter than this. */
const LOAD_PERIODS = 4;
const LOAD_MS_MIN = 1500;
/** A guest that lives on goes on to be written to. */
const AFTERWARDS_MS = 500;
const POWER_OFF_DEADLINE_MS = 30_000;
const POLL_MS = 50;
/** The logs' clock has milliseconds; a line is written a little after what it tells of. */
const CLOCK_SLACK_MS = 3;
/** A machine that is busy with other things must not look like a lost peer. */
const PATIENT = ['--peer-timeout', '3s'];
/** The agents' name of the guest in the lab. */
const VM = 'demo';

export interface CrashContext {
  readonly root: string;
  readonly guest: GuestFiles;
  readonly options: CrashOptions;
  readonly prng: Prng;
  readonly tell: (text: string) => void;
}

export interface RoundResult {
  readonly round: number;
  readonly fault: Fault;
  readonly moment: Moment;
  readonly position: Position;
  readonly acknowledged: number;
  /** Nobody told the client what became of them. */
  readonly unanswered: number;
  readonly refused: number;
  /** What was found on the hosts without power. */
  readonly images: readonly ImageResult[];
  readonly seconds: number;
  readonly problems: readonly string[];
}

/** What was found on a host without power. */
export interface ImageResult {
  readonly host: 'primary' | 'secondary';
  /** Acknowledged writes that had to be in it, also of earlier rounds. */
  readonly demanded: number;
  /** Of a secondary: the epoch that its image is at, and how many the journal had to add. */
  readonly epoch: number | null;
  readonly replayed: number;
}

/** A pair and what was written to its guest. */
interface Chain {
  readonly pair: PairLab;
  readonly cleanup: Cleanup;
  readonly ledger: Ledger;
  readonly stopListening: () => void;
  /** Power of hostb is on. */
  secondaryRuns: boolean;
}

/** One host's image after a crash, and what must be in it. */
interface Remains {
  readonly host: 'primary' | 'secondary';
  readonly image: CrashedImage;
  readonly bounds: (epoch: number | undefined) => Bounds;
}

export class CrashTest {
  readonly #context: CrashContext;
  #chain: Chain | undefined;

  constructor(context: CrashContext) {
    this.#context = context;
  }

  async round(round: number, fault: Fault): Promise<RoundResult> {
    const startMs = Date.now();
    const { options, prng } = this.#context;
    const chain = await this.#protectedChain();
    const { pair, ledger } = chain;
    const writers = await Writers.start(pair, `r${round}`);
    const moment = drawMoment(prng);
    await delay(Math.max(LOAD_MS_MIN, LOAD_PERIODS * options.periodMs));
    const killedMs = await cutPower(pair, fault, moment);
    this.#tell(`round ${round}: power cut of ${fault}`);
    const survivor = fault === 'both' ? undefined : fault === 'primary' ? 'hostb' : 'hosta';
    if (survivor !== undefined) {
      await noticed(pair, survivor);
      await delay(AFTERWARDS_MS);
    }
    const report = await writers.end(survivor === undefined ? 'abandon' : 'stop');
    ledger.add(report);
    const events = await checkpointEvents(pair);
    const found = await this.#checkRemains(
      chain,
      remainsOf(pair, fault, { events, killedMs, mode: options.mode }),
    );
    const problems = [...report.problems, ...found.problems];
    if (survivor === undefined) await bootAlone(pair);
    problems.push(...(await this.#checkGuest(chain)));
    if (fault !== 'secondary') chain.secondaryRuns = false;
    if (fault === 'primary') problems.push(...(await this.#powerOff(chain, 'hostb')));
    if (problems.length === 0 && fault === 'primary') await this.#takeDown();
    chain.secondaryRuns = false;
    return {
      round,
      fault,
      moment,
      position: locate(events, killedMs),
      ...countWrites(report),
      refused: report.refused,
      images: found.images,
      seconds: (Date.now() - startMs) / 1000,
      problems,
    };
  }

  /** The last pair's guest is powered off and its image checked; everything is taken down. */
  async finish(): Promise<string[]> {
    const chain = this.#chain;
    if (chain === undefined) return [];
    const problems = await this.#powerOff(chain, 'hosta');
    if (problems.length === 0) await this.#takeDown();
    return problems;
  }

  /** Where the running pair's files are. */
  get directory(): string | undefined {
    return this.#chain?.pair.directory;
  }

  /** Takes everything down, whatever is under way. */
  async abandon(options: { keepFiles: boolean }): Promise<void> {
    if (options.keepFiles) this.#chain?.pair.keepFiles('all');
    await this.#takeDown();
  }

  /** A signal came, and its handler takes everything down. */
  get interrupted(): boolean {
    return this.#chain?.cleanup.started === true;
  }

  async #protectedChain(): Promise<Chain> {
    const chain = this.#chain ?? (await this.#bringUp());
    if (!chain.secondaryRuns) {
      await chain.pair.startSecondary();
      chain.secondaryRuns = true;
    }
    await chain.pair.waitProtected();
    await chain.pair.waitGuest();
    return chain;
  }

  async #bringUp(): Promise<Chain> {
    const { root, guest, options } = this.#context;
    const cleanup = new Cleanup();
    const stopListening = cleanup.onSignals();
    const pair = await PairLab.up(
      {
        root,
        guest,
        memoryMib: MEMORY_MIB,
        periodMs: options.periodMs,
        mode: options.mode,
        logLevel: 'debug',
        primaryFlags: PATIENT,
        secondaryFlags: PATIENT,
      },
      cleanup,
    );
    if (options.keep) pair.keepFiles('all');
    const chain = { pair, cleanup, stopListening, ledger: new Ledger(), secondaryRuns: true };
    this.#chain = chain;
    await pair.startSecondary();
    await pair.startPrimary();
    return chain;
  }

  async #takeDown(): Promise<void> {
    const chain = this.#chain;
    this.#chain = undefined;
    await chain?.cleanup.run();
    chain?.stopListening();
  }

  async #checkRemains(
    { ledger }: Chain,
    remains: readonly Remains[],
  ): Promise<{ problems: string[]; images: ImageResult[] }> {
    const problems: string[] = [];
    await Promise.all(remains.map(({ image }) => takeImage(image)));
    const images = await Promise.all(
      remains.map(async ({ host, image, bounds }): Promise<ImageResult> => {
        const checked = await checkImage(image, ledger.directories);
        const { epoch = null, replayed } = checked;
        const must = bounds(checked.epoch);
        const wrong = [...checked.problems, ...ledger.check(checked.contents, must)];
        if (image.journal !== undefined && epoch === null) {
          wrong.push('The journal does not tell the epoch');
        }
        problems.push(...wrong.map((problem) => `Image of the ${host}: ${problem}`));
        if (wrong.length === 0) await dispose(image);
        return { host, demanded: ledger.demanded(must), epoch, replayed };
      }),
    );
    return { problems, images };
  }

  async #checkGuest({ pair, ledger }: Chain): Promise<string[]> {
    const contents = await readGuest(pair, ledger);
    const problems = ledger.check(contents, EVERYTHING);
    ledger.settle(contents, Date.now());
    return problems.map((problem) => `The running guest: ${problem}`);
  }

  /** In order, so that the image must be right as it is; its agent ends with the guest. */
  async #powerOff(chain: Chain, host: HostName): Promise<string[]> {
    const { pair } = chain;
    const control = new GuestControl({
      enter: pair.lab.client.enter,
      buildDir: pair.buildDir,
      host: GUEST_ADDRESS,
      logPath: join(pair.directory, 'guest-control.log'),
    });
    try {
      await control.command('poweroff');
    } finally {
      control.close();
    }
    await allGone(pair, host);
    const image = { path: imagePath(pair, host), workDirectory: join(pair.directory, 'off') };
    const { problems } = await this.#checkRemains(chain, [
      { host: 'primary', image, bounds: () => EVERYTHING },
    ]);
    return problems.map((problem) => `After the power-off: ${problem}`);
  }

  #tell(text: string): void {
    this.#context.tell(text);
  }
}

/** SIGKILL for everything on the hosts, at once; returns the time before it, milliseconds. */
async function cutPower(pair: PairLab, fault: Fault, moment: Moment): Promise<number> {
  const hosts = fault === 'both' ? (['hosta', 'hostb'] as const) : [hostOf(fault)];
  // Asked for before: it takes some milliseconds, and the moment would be over.
  const pids = (await Promise.all(hosts.map((host) => pair.lab[host].pids()))).flat();
  await waitMoment(pair, moment);
  const atMs = Date.now();
  signalAll(pids, 'SIGKILL');
  await Promise.all(hosts.map((host) => pair.lab[host].killAll()));
  return atMs;
}

function hostOf(fault: 'primary' | 'secondary'): HostName {
  return fault === 'primary' ? 'hosta' : 'hostb';
}

async function noticed(pair: PairLab, survivor: HostName): Promise<void> {
  await pair.waitStatus(survivor, 'it serves alone', ({ role, state, peer }) => {
    return role === 'primary' && state !== 'protected' && peer.state !== 'connected';
  });
}

/** From the primary's image, with nobody at the other end. */
async function bootAlone(pair: PairLab): Promise<void> {
  await pair.startPrimary();
  await pair.waitGuest();
}

async function checkpointEvents(pair: PairLab): Promise<CheckpointEvent[]> {
  const texts = ['hosta', 'hostb'] as const;
  const logs = await Promise.all(texts.map((host) => readFile(pair.logPath(host), 'utf8')));
  return logs.flatMap(parseLog);
}

function imagePath(pair: PairLab, host: HostName): string {
  if (host === 'hosta') return pair.imagePath;
  return join(pair.directory, 'hostb', 'state', `${VM}-root.img`);
}

interface Facts {
  readonly events: readonly CheckpointEvent[];
  readonly killedMs: number;
  readonly mode: Mode;
}

/** The images of the hosts that lost their power, and what must be in them. */
function remainsOf(pair: PairLab, fault: Fault, facts: Facts): Remains[] {
  const remains: Remains[] = [];
  if (fault !== 'secondary') {
    const image = {
      path: imagePath(pair, 'hosta'),
      workDirectory: join(pair.directory, 'crashed-primary'),
    };
    const until = facts.killedMs + CLOCK_SLACK_MS;
    // What was acknowledged before the cut was on this image; of `both`, everything was.
    const bounds = {
      ackedBeforeMs: fault === 'both' ? Number.POSITIVE_INFINITY : facts.killedMs,
      sentUntilMs: until,
    };
    remains.push({ host: 'primary', image, bounds: () => bounds });
  }
  if (fault !== 'primary') {
    const image = {
      path: imagePath(pair, 'hostb'),
      journal: { directory: join(pair.directory, 'hostb', 'state'), vm: VM },
      workDirectory: join(pair.directory, 'crashed-secondary'),
    };
    const bounds = (epoch: number | undefined) => secondaryBounds(epoch, facts);
    remains.push({ host: 'secondary', image, bounds });
  }
  return remains;
}

/**
 * The image is at the end of `epoch`, so nothing is in it that was sent after the guest ran on from
 * that epoch's pause. In mode checkpoint an answer leaves with its epoch's commit, so all answers
 * must be in it; in mode colo, those from before the pause of the last applied epoch.
 */
function secondaryBounds(epoch: number | undefined, facts: Facts): Bounds {
  const { events, killedMs, mode } = facts;
  const before = events.filter(({ atMs }) => atMs <= killedMs);
  const applied = before.findLast(({ step }) => step === 'applied')?.epoch;
  const pause = events.find((event) => event.step === 'captured' && event.epoch === applied);
  const pausedMs = pause === undefined ? 0 : pause.atMs - pause.pauseMs - CLOCK_SLACK_MS;
  const end = events.find((event) => event.step === 'captured' && event.epoch === epoch);
  return {
    ackedBeforeMs: mode === 'checkpoint' ? killedMs : pausedMs,
    sentUntilMs: Math.min(end?.atMs ?? killedMs, killedMs) + CLOCK_SLACK_MS,
  };
}

async function allGone(pair: PairLab, host: HostName): Promise<void> {
  const untilMs = Date.now() + POWER_OFF_DEADLINE_MS;
  while ((await pair.lab[host].pids()).length > 0) {
    if (Date.now() > untilMs) {
      throw new Error(`${host}: not over ${POWER_OFF_DEADLINE_MS} ms after the guest's power-off`);
    }
    await delay(POLL_MS);
  }
}
