/** File descriptors as numbers, which every thread of the process can use. */
import { check, libc } from './libc.js';

const F_DUPFD_CLOEXEC = 1030;

const fcntl = libc.func('int fcntl(int fd, int command, ...)') as (
  fd: number,
  command: number,
  type: 'int',
  argument: number,
) => number;

/**
 * A second descriptor of what `fd` stands for; no child process inherits it. The caller closes it
 * (fs.closeSync), in whatever thread.
 */
export function duplicateDescriptor(fd: number): number {
  return check('fcntl F_DUPFD_CLOEXEC', fcntl(fd, F_DUPFD_CLOEXEC, 'int', 0));
}
