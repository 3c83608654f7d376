/** What the parts of a guest that arrives tell of themselves. */
import type { Guest } from '../guest/index.js';
import { describeError, type Logger } from '../lib/index.js';

export interface ArrivingListener {
  /** Every disk that the guest writes to has all of the source's last epoch. */
  readonly onDisksStaged: () => void;
  readonly onBroken: (reason: string) => void;
  readonly onPoweredOff: (reason: string) => void;
}

export function listenToArriving(guest: Guest, log: Logger, listener: ArrivingListener): void {
  const { hooks, emulator, definition } = guest;
  const { onDisksStaged, onBroken, onPoweredOff } = listener;
  const staged = new Set<number>();
  hooks.onDiskStaged = ({ disk }) => {
    staged.add(disk);
    const writable = definition.disks.filter(({ readOnly }) => !readOnly);
    if (staged.size === writable.length) onDisksStaged();
  };
  hooks.onDisksUnfit = onBroken;
  hooks.onDisksSilent = (reason) => log.error('A disk is silent', { reason });
  hooks.onDisksFailure = (error) => onBroken(`The disk thread: ${describeError(error)}`);
  hooks.onNetworkFailure = (error) => onBroken(`The network thread: ${describeError(error)}`);
  void emulator.exited.then(({ reason }) => onBroken(`QEMU: ${reason}`));
  emulator.onGuestEvent((event) => {
    if (event.kind !== 'shutdown') return;
    onPoweredOff(event.byGuest ? 'The guest powered off' : `QEMU shut down (${event.reason})`);
  });
}
