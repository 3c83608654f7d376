/**
 * The daemons' log: winston to stderr, one line an event, each with host, vm, role and epoch.
 *
 *   text: 2026-11-21T01:02:03.004Z info hostA/web primary epoch=12 The peer is lost silentMs=503
 *   json: {"time":"...","level":"info","host":"hostA","vm":"web","role":"primary","epoch":12,...}
 *
 * What is logged may quote a peer or a guest, so control characters never reach the terminal and
 * nothing can start a line of its own. winston costs about 1.3 us a call: none per packet.
 */
import { once } from 'node:events';
import winston from 'winston';
import type { LogContext, NodeLogger } from '../config/index.js';
import { describeError } from '../lib/index.js';

/** Options of `createLogger`. */
export interface LoggerOptions {
  readonly host: string;
  readonly vm: string;
  /** Until `setContext` says otherwise. */
  readonly role: LogContext['role'];
  readonly level: 'debug' | 'info' | 'warn' | 'error';
  readonly format: 'text' | 'json';
  /** stderr, unless a test wants to read along. */
  readonly output?: NodeJS.WritableStream;
}

/** The log of a daemon. */
export interface DaemonLogger extends NodeLogger {
  /** Resolves when every line has been written; nothing may be logged after it. Idempotent. */
  close(): Promise<void>;
}

interface Line extends LogContext {
  readonly time: string;
  readonly level: string;
  readonly host: string;
  readonly vm: string;
  readonly message: string;
  readonly fields: Record<string, unknown>;
}

/** Makes the log of a daemon. */
export function createLogger(options: LoggerOptions): DaemonLogger {
  let context: LogContext = { role: options.role, epoch: 0 };
  const transport = new winston.transports.Stream({ stream: options.output ?? process.stderr });
  const logger = winston.createLogger({
    level: options.level,
    transports: [transport],
    format: winston.format.printf((info) => {
      const line = info['line'] as Line;
      return options.format === 'json' ? formatJson(line) : formatText(line);
    }),
  });
  const write = (level: string, message: string, fields: Record<string, unknown> = {}): void => {
    const { host, vm } = options;
    const time = new Date().toISOString();
    // Winston gets one field of ours, so that no field of a caller can pass for one of its own.
    const line: Line = { time, level, host, vm, ...context, message, fields };
    logger.log({ level, message, line });
  };
  let closed: Promise<void> | undefined;
  return {
    debug: (message, fields) => write('debug', message, fields),
    info: (message, fields) => write('info', message, fields),
    warn: (message, fields) => write('warn', message, fields),
    error: (message, fields) => write('error', message, fields),
    setContext: (change) => {
      context = { ...context, ...change };
    },
    close: () => {
      closed ??= closeLogger(logger, transport);
      return closed;
    },
  };
}

/** winston's own end is too early: lines may still sit in the transport (its issue 1504). */
async function closeLogger(
  logger: winston.Logger,
  transport: InstanceType<typeof winston.transports.Stream>,
): Promise<void> {
  const finished = once(transport, 'finish');
  logger.end();
  await finished;
}

function formatText(line: Line): string {
  const head = `${line.time} ${line.level} ${line.host}/${line.vm} ${line.role}`;
  const fields = Object.entries(line.fields).map(
    ([name, value]) => ` ${printable(name)}=${fieldText(value)}`,
  );
  const epoch = Object.hasOwn(line.fields, 'epoch') ? '' : ` epoch=${line.epoch}`;
  return `${head}${epoch} ${printable(line.message)}${fields.join('')}`;
}

function formatJson(line: Line): string {
  const { fields, ...own } = line;
  const shown: Record<string, unknown> = { ...own };
  for (const [name, value] of Object.entries(fields)) {
    // A line may tell of another epoch than the present; every other name of ours stays ours.
    const taken = Object.hasOwn(own, name) && name !== 'epoch';
    shown[taken ? `field.${name}` : name] = value;
  }
  return printable(JSON.stringify(shown, jsonValue));
}

function fieldText(value: unknown): string {
  const text = typeof value === 'string' ? value : (JSON.stringify(value, jsonValue) ?? 'none');
  const isPlain = typeof value !== 'string' || /^[\w./:@%+-]+$/.test(text);
  return printable(isPlain ? text : JSON.stringify(text));
}

/** JSON has no big integers and makes `{}` of errors. */
function jsonValue(_name: string, value: unknown): unknown {
  if (typeof value === 'bigint') return String(value);
  if (value instanceof Error) return describeError(value);
  return value;
}

function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is replaced
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g, (character) => {
    return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;
  });
}
