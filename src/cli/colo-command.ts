/**
 * What `colo` does, as a function of its arguments and the few things it touches: everything goes
 * to `Surroundings`, so the tests run it whole. With `--json` each outcome, errors too, is one
 * line of JSON on stdout; without, answers go to stdout and errors to stderr.
 */
import type { NodeStatus } from '../config/index.js';
import { ColoError, describeError, OperatorError } from '../lib/index.js';
import {
  type AgentChoice,
  type CheckConfigWish,
  type ColoPlace,
  type ColoWish,
  type CompareWish,
  type DiscardWish,
  parseColoArguments,
} from './colo-arguments.js';
import type { CompareOutcome } from './compare-files.js';
import { comparisonJson, formatComparison, isMismatched } from './compare-text.js';
import { type FileReport, filesToCheck } from './config-check.js';
import {
  type Command,
  decodeDetail,
  decodeStatus,
  decodeVerified,
  type Response,
} from './control-wire.js';
import type { DiscardedDisk, DiscardPlan } from './discard-images.js';
import { formatDiscarded, formatVerified } from './disk-text.js';
import { AgentUnreachable, EXIT, exitCodeOf } from './exit-codes.js';
import { ANSWER_MS_MAX, DEED_MS_MAX, VERIFY_MS_MAX } from './limits.js';
import type { Made } from './pki/authority.js';
import type { ShownCertificate } from './pki/certificate-file.js';
import type { PkiWish } from './pki/pki-arguments.js';
import { formatInit, formatIssued, formatShown } from './pki/pki-text.js';
import { formatStatus, verifyText } from './status-text.js';

/** The world of one run of `colo`. */
export interface Surroundings extends ColoPlace {
  readonly isTerminal: boolean;
  readonly print: (text: string) => void;
  readonly complain: (text: string) => void;
  readonly call: (path: string, command: Command, timeoutMs: number) => Promise<Response>;
  /** File names in a folder; none when there is no such folder. */
  readonly list: (folder: string) => Promise<string[]>;
  /** Compares the files of captures; on a terminal it shows how far it is. */
  readonly compareFiles: (wish: CompareWish) => Promise<CompareOutcome>;
  /** Checks one configuration file on this host. */
  readonly checkConfig: (file: string, role: CheckConfigWish['role']) => Promise<FileReport>;
  /** The images that a `discard-image` means. Throws OperatorError. */
  readonly planDiscard: (wish: DiscardWish) => Promise<DiscardPlan>;
  readonly carryOutDiscard: (plan: DiscardPlan) => Promise<DiscardedDisk[]>;
  /** Makes a CA or a host's certificate. Throws ColoError. */
  readonly makeCertificate: (wish: Exclude<PkiWish, { kind: 'show' }>) => Promise<Made>;
  readonly showCertificates: (wish: PkiWish & { kind: 'show' }) => Promise<ShownCertificate[]>;
  /** False also where nobody can be asked. */
  readonly confirm: (question: string) => Promise<boolean>;
  /** Waits for the next look of `--watch`; false ends it. */
  readonly nextLook: () => Promise<boolean>;
}

type Call = Extract<ColoWish, { kind: 'call' }>;

/** Clear from the top left corner on (ECMA-48 CUP, ED). */
const CLEAR_SCREEN = '\x1b[H\x1b[J';

/** Runs `colo` with these arguments; gives the exit code. */
export async function runColo(argv: readonly string[], around: Surroundings): Promise<number> {
  const wish = await parseColoArguments(argv, around);
  switch (wish.kind) {
    case 'print':
      around.print(wish.text);
      return EXIT.ok;
    case 'usage':
      report(around, wish.json, { code: 'COLO_E_USAGE', reason: wish.message });
      return EXIT.usage;
    case 'compare':
      return await compare(wish.compare, around);
    case 'check-config':
      return await checkConfig(wish.check, around);
    case 'discard-image':
      return await discardImages(wish.discard, around);
    case 'pki':
      return await pki(wish.pki, around);
    case 'call':
      if (wish.command.command === 'verify') return await verify(wish, around);
      return wish.watch ? await watch(wish, around) : await callOnce(wish, around);
  }
}

async function callOnce(wish: Call, around: Surroundings, before = ''): Promise<number> {
  try {
    const path = await findSocket(wish.agent, around.list);
    const { command } = wish;
    const response = await around.call(path, command, answerMs(command));
    if (!response.ok) {
      report(around, wish.json, response.error);
      return EXIT.failed;
    }
    around.print(before + formatResult(wish, response.result));
    return EXIT.ok;
  } catch (error) {
    if (!(error instanceof ColoError)) throw error;
    report(around, wish.json, { code: error.code, reason: describeError(error) });
    return exitCodeOf(error);
  }
}

/** Shows how far it is on stderr, as the agent's status tells it. */
async function verify(wish: Call, around: Surroundings): Promise<number> {
  try {
    const path = await findSocket(wish.agent, around.list);
    const answer = around.call(path, wish.command, VERIFY_MS_MAX);
    let isDone = false;
    const done = answer.then(
      () => {
        isDone = true;
      },
      () => {
        isDone = true;
      },
    );
    let shown = '';
    while (!wish.json && !isDone && (await Promise.race([done, around.nextLook()])) === true) {
      const text = await verifyProgress(path, around);
      if (text !== '' && text !== shown && !isDone) around.complain(`colo: ${text}\n`);
      shown = text;
    }
    const response = await answer;
    if (!response.ok) {
      report(around, wish.json, response.error);
      return EXIT.failed;
    }
    const disks = decodeVerified(response.result);
    const ok = disks.every(({ remaining }) => remaining === 0);
    around.print(wish.json ? `${JSON.stringify({ ok, disks })}\n` : formatVerified(disks));
    return ok ? EXIT.ok : EXIT.failed;
  } catch (error) {
    if (!(error instanceof ColoError)) throw error;
    report(around, wish.json, { code: error.code, reason: describeError(error) });
    return exitCodeOf(error);
  }
}

/** Empty while nothing is known: the verification itself tells of an agent that is gone. */
async function verifyProgress(path: string, around: Surroundings): Promise<string> {
  try {
    const status = await around.call(path, { command: 'status', arguments: {} }, ANSWER_MS_MAX);
    const running = status.ok ? decodeStatus(status.result).verify : null;
    return running === null ? '' : verifyText(running);
  } catch (error) {
    if (!(error instanceof ColoError)) throw error;
    return '';
  }
}

async function discardImages(wish: DiscardWish, around: Surroundings): Promise<number> {
  try {
    const plan = await around.planDiscard(wish);
    if (!wish.yes) {
      const images = plan.disks.map(({ name, path }) => `  disk ${name}: ${path}\n`).join('');
      const question =
        `The data of these images of ${plan.vm} will be given up for the other host's:\n` +
        `${images}Go on? [yes/no] `;
      if (!(await around.confirm(question))) {
        const reason = 'nothing was given up, expected "yes", or the flag --yes';
        report(around, wish.json, { code: 'COLO_E_NOT_CONFIRMED', reason });
        return EXIT.failed;
      }
    }
    const disks = await around.carryOutDiscard(plan);
    around.print(wish.json ? `${JSON.stringify({ ok: true, disks })}\n` : formatDiscarded(disks));
    return EXIT.ok;
  } catch (error) {
    if (!(error instanceof ColoError)) throw error;
    report(around, wish.json, { code: error.code, reason: describeError(error) });
    return exitCodeOf(error);
  }
}

/** Shown certificates of which one does not count now are a failure, for whoever watches them. */
async function pki(wish: PkiWish, around: Surroundings): Promise<number> {
  const json = jsonWanted(wish);
  try {
    if (wish.kind === 'show') {
      const certificates = await around.showCertificates(wish);
      const ok = certificates.every(({ state }) => state === 'valid');
      const shown = json ? `${JSON.stringify({ ok, certificates })}\n` : formatShown(certificates);
      around.print(shown);
      return ok ? EXIT.ok : EXIT.failed;
    }
    const made = await around.makeCertificate(wish);
    const text = wish.kind === 'init' ? formatInit(made) : formatIssued(wish.issue, made);
    around.print(json ? `${JSON.stringify({ ok: true, ...made })}\n` : text);
    return EXIT.ok;
  } catch (error) {
    if (!(error instanceof ColoError)) throw error;
    report(around, json, { code: error.code, reason: describeError(error) });
    return exitCodeOf(error);
  }
}

function jsonWanted(wish: PkiWish): boolean {
  switch (wish.kind) {
    case 'init':
      return wish.init.json;
    case 'issue':
      return wish.issue.json;
    case 'show':
      return wish.show.json;
  }
}

/** How long an answer may take: some commands are done before they are answered. */
function answerMs(asked: Command): number {
  switch (asked.command) {
    case 'status':
    case 'set-period':
      return ANSWER_MS_MAX;
    case 'capture':
      return asked.arguments.durationUs / 1000 + DEED_MS_MAX;
    default:
      return DEED_MS_MAX;
  }
}

async function compare(wish: CompareWish, around: Surroundings): Promise<number> {
  try {
    const outcome = await around.compareFiles(wish);
    around.print(
      wish.json
        ? `${JSON.stringify(comparisonJson(wish, outcome))}\n`
        : formatComparison(wish, outcome),
    );
    return isMismatched(outcome) ? EXIT.failed : EXIT.ok;
  } catch (error) {
    if (!(error instanceof ColoError)) throw error;
    report(around, wish.json, { code: error.code, reason: describeError(error) });
    return exitCodeOf(error);
  }
}

/** Errors and warnings go to stderr, one line each; what is said of whole files to stdout. */
async function checkConfig(wish: CheckConfigWish, around: Surroundings): Promise<number> {
  let files: string[];
  try {
    files = filesToCheck(wish.files, await around.list('/etc/colo'));
  } catch (error) {
    if (!(error instanceof ColoError)) throw error;
    report(around, wish.json, { code: error.code, reason: describeError(error) });
    return EXIT.configuration;
  }
  if (files.length === 0) {
    const reason = 'found no *.conf in /etc/colo, expected one; write it, or name a file';
    report(around, wish.json, { code: 'COLO_E_CONFIGURATION', reason });
    return EXIT.configuration;
  }
  const reports: FileReport[] = [];
  for (const file of files) reports.push(await around.checkConfig(file, wish.role));
  const isFine = (one: FileReport): boolean => one.findings.every(({ level }) => level !== 'error');
  if (wish.json) {
    const shown = reports.map((one) => ({ ...one, ok: isFine(one) }));
    around.print(`${JSON.stringify({ ok: reports.every(isFine), files: shown })}\n`);
  } else {
    for (const one of reports) {
      for (const { level, line } of one.findings) {
        around.complain(`colo: ${level === 'warning' ? 'warning: ' : ''}${line}\n`);
      }
      if (isFine(one)) around.print(`${one.file}: good for colo-${one.role} on this host\n`);
    }
  }
  return reports.every(isFine) ? EXIT.ok : EXIT.configuration;
}

/** Goes on through failures: a watch is for the moment when the agent comes back. */
async function watch(wish: Call, around: Surroundings): Promise<number> {
  const clear = around.isTerminal && !wish.json ? CLEAR_SCREEN : '';
  let exitCode: number = EXIT.ok;
  do {
    exitCode = await callOnce(wish, around, clear);
    if (exitCode === EXIT.usage) return exitCode;
  } while (await around.nextLook());
  return exitCode;
}

function formatResult(wish: Call, result: unknown): string {
  if (wish.command.command === 'status') {
    const status: NodeStatus = decodeStatus(result);
    return wish.json ? `${JSON.stringify(status)}\n` : formatStatus(status);
  }
  const detail = decodeDetail(result);
  return wish.json ? `${JSON.stringify({ ok: true, detail })}\n` : `${detail}\n`;
}

function report(
  around: Surroundings,
  json: boolean,
  error: { code: string; reason: string },
): void {
  const { code, reason } = error;
  if (json) around.print(`${JSON.stringify({ ok: false, code, reason })}\n`);
  else around.complain(`colo: ${reason} (${code})\n`);
}

/** The socket that is meant; with nothing said, the only one there is. */
async function findSocket(
  agent: AgentChoice,
  list: (folder: string) => Promise<string[]>,
): Promise<string> {
  if (agent.socket !== undefined) return agent.socket;
  if (agent.vm !== undefined) return `${agent.runDir}/${agent.vm}.sock`;
  const names = (await list(agent.runDir)).filter((name) => name.endsWith('.sock')).sort();
  const only = names[0];
  if (only === undefined) {
    const expected = 'expected one; start it, or name its socket with --socket or --run-dir';
    throw new AgentUnreachable(`Found no agent in ${agent.runDir}, ${expected}`);
  }
  if (names.length > 1) {
    const vms = names.slice(0, 20).map((name) => name.slice(0, -'.sock'.length));
    const message = `Found ${names.length} agents in ${agent.runDir} (${vms.join(', ')})`;
    throw new OperatorError('COLO_E_USAGE', `${message}, expected one; choose with --vm`);
  }
  return `${agent.runDir}/${only}`;
}
