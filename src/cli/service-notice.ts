/**
 * What a service tells systemd, as text. Pure.
 *
 * One datagram is lines of `NAME=value` (man 3 sd_notify, systemd 252). The watchdog's interval
 * comes in WATCHDOG_USEC and is meant for us only if WATCHDOG_PID is ours or not set (man 3
 * sd_watchdog_enabled).
 */
import type { NodeStatus } from '../config/index.js';

/** What is told; each part that is not given is left out. */
export interface Notice {
  readonly ready?: true;
  readonly stopping?: true;
  /** The main loop is alive. */
  readonly watchdog?: boolean;
  /** One line for `systemctl status`. */
  readonly status?: string | undefined;
}

const STATUS_LENGTH_MAX = 200;
/** At most so long between two looks at the node, also without a watchdog. */
const LOOK_MS_MAX = 1_000;
/** systemd asks for a sign every half interval; a third leaves room for a busy host. */
const SIGNS_PER_INTERVAL = 3;

/** The bytes of one datagram; undefined when there is nothing to tell. */
export function encodeNotice(notice: Notice): Buffer | undefined {
  const lines: string[] = [];
  if (notice.ready === true) lines.push('READY=1');
  if (notice.stopping === true) lines.push('STOPPING=1');
  if (notice.status !== undefined) lines.push(`STATUS=${oneLine(notice.status)}`);
  if (notice.watchdog === true) lines.push('WATCHDOG=1');
  return lines.length === 0 ? undefined : Buffer.from(`${lines.join('\n')}\n`);
}

/** The watchdog's interval in microseconds; undefined when this process is not watched. */
export function watchdogUs(
  env: Readonly<Record<string, string | undefined>>,
  pid: number,
): number | undefined {
  const { WATCHDOG_USEC: text = '', WATCHDOG_PID: meant } = env;
  if (meant !== undefined && meant !== String(pid)) return undefined;
  if (!/^\d{1,15}$/.test(text)) return undefined;
  const us = Number(text);
  return us > 0 ? us : undefined;
}

/** Milliseconds between two looks at the node. */
export function lookEveryMs(watchdog: number | undefined): number {
  if (watchdog === undefined) return LOOK_MS_MAX;
  return Math.max(1, Math.min(LOOK_MS_MAX, Math.floor(watchdog / 1000 / SIGNS_PER_INTERVAL)));
}

/** What `systemctl status` shows of a node. */
export function serviceStatus(status: NodeStatus): string {
  const { role, state, mode, peer } = status;
  return `${role}, ${state}, mode ${mode}, peer ${peer.address} ${peer.state}`;
}

function oneLine(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is replaced
  return text.replace(/[\u0000-\u001f\u007f]/g, ' ').slice(0, STATUS_LENGTH_MAX);
}
