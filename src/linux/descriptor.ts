/** File descriptors as numbers, which every thread of the process can use. */
import { fcntl } from './libc.js';

/**
 * A second descriptor of what `fd` stands for; no child process inherits it. The caller closes it
 * (fs.closeSync), in whatever thread.
 */
export function duplicateDescriptor(fd: number): number {
  return fcntl(fd, 'F_DUPFD_CLOEXEC');
}
