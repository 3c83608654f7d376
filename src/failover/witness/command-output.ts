/**
 * What a witness command says: lines of `key=value` on its standard output, and its exit code.
 *
 *     exit code   0 granted; 1 denied; 75 (EX_TEMPFAIL) and every other: unreachable
 *     token=N     the number of this grant, greater than any before; needed with 0
 *     ttl=MS      how long it lasts, milliseconds; else as configured
 *     holder=NAME with 1: who has it
 *     stale=yes   with 1: the holder has gone alone since, this node's state is old
 *
 * Other lines are its own business.
 */
import { COMMAND_TTL_MS_MAX, COMMAND_TTL_MS_MIN, REASON_LENGTH_MAX } from '../limits.js';
import type { WitnessAnswer } from './witness.js';

export function readCommandOutput(
  ended: { readonly exitCode: number; readonly stdout: string; readonly stderr: string },
  asked: { readonly askedAtUs: number; readonly ttlUs: number },
): WitnessAnswer {
  const values = new Map<string, string>();
  for (const line of ended.stdout.split('\n')) {
    const [, key, value] = /^(token|ttl|holder|stale)=(.{1,100})$/.exec(line.trim()) ?? [];
    if (key !== undefined && value !== undefined) values.set(key, value);
  }
  if (ended.exitCode === 1) {
    const holder = values.get('holder') ?? 'another';
    return { kind: 'denied', holder, stale: values.get('stale') === 'yes' };
  }
  if (ended.exitCode !== 0) {
    const said = ended.stderr.trim().split('\n').at(-1) ?? '';
    return unreachable(`The command ended with ${ended.exitCode}: ${said}`);
  }
  const token = wholeNumber(values.get('token'));
  if (token === undefined || token === 0) return unreachable('The command gave no token');
  const given = values.get('ttl');
  const ttlMs = given === undefined ? asked.ttlUs / 1000 : wholeNumber(given);
  if (ttlMs === undefined || ttlMs < COMMAND_TTL_MS_MIN || ttlMs > COMMAND_TTL_MS_MAX) {
    return unreachable(`The command gave a ttl of ${given} ms`);
  }
  return { kind: 'granted', token, askedAtUs: asked.askedAtUs, ttlUs: ttlMs * 1000 };
}

function wholeNumber(text: string | undefined): number | undefined {
  const value = text !== undefined && /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN;
  return Number.isSafeInteger(value) ? value : undefined;
}

function unreachable(reason: string): WitnessAnswer {
  return { kind: 'unreachable', reason: reason.slice(0, REASON_LENGTH_MAX) };
}
