import koffi from 'koffi';
import { ColoError } from '../lib/index.js';

/** The C library; every file of this folder declares the calls it needs on it. */
export const libc = koffi.load('libc.so.6');

const strerror = libc.func('const char *strerror(int)') as (errno: number) => string;

/** A system call failed. `errno` is the number, `call` its name. */
export class SystemCallError extends ColoError {
  readonly errno: number;
  readonly call: string;

  constructor(call: string, errno: number) {
    super('COLO_E_SYSCALL', `${call} failed: ${strerror(errno)}`);
    this.call = call;
    this.errno = errno;
  }
}

/** The calling thread's errno, right after a call that failed. */
export function errno(): number {
  return koffi.errno();
}

/** Throws `SystemCallError` when `result` is negative; else gives it back as a number. */
export function check(call: string, result: number | bigint): number {
  if (Number(result) < 0) throw new SystemCallError(call, koffi.errno());
  return Number(result);
}

const fcntlCall = libc.func('int fcntl(int fd, int command, ...)') as (
  fd: number,
  command: number,
  type: 'int',
  argument: number,
) => number;

const FCNTL = { F_SETFL: 4, F_DUPFD_CLOEXEC: 1030, F_ADD_SEALS: 1033, F_GET_SEALS: 1034 } as const;

/** fcntl(2) of a command that takes a number, or nothing. Throws `SystemCallError`. */
export function fcntl(fd: number, command: keyof typeof FCNTL, argument = 0): number {
  return check(`fcntl ${command}`, fcntlCall(fd, FCNTL[command], 'int', argument));
}
