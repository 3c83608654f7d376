/**
 * What QEMU tells of a guest unasked, as far as anyone here acts on it, and that it tells nothing.
 * Other events are ignored.
 */
import type { QmpEvent } from './qmp-wire.js';

export type GuestEvent =
  /** The guest was powered off (`byGuest`) or QEMU was asked to end; QEMU stays, paused. */
  | { readonly kind: 'shutdown'; readonly byGuest: boolean; readonly reason: string }
  | { readonly kind: 'reset'; readonly byGuest: boolean; readonly reason: string }
  /** The guest's kernel reported a panic (pvpanic); it runs on. */
  | { readonly kind: 'panic' }
  /** A watchdog of the guest's machine ran out; `action` is what QEMU did about it. */
  | { readonly kind: 'watchdog'; readonly action: string }
  /** A disk request failed on this host; the guest is paused and the request not lost. */
  | { readonly kind: 'disk-error'; readonly device: string; readonly operation: string }
  /** The vCPUs stopped or started, asked for or not. */
  | { readonly kind: 'stopped' }
  | { readonly kind: 'resumed' }
  /** QEMU answers no more; told again and again for as long as it does not (qmp-watch.ts). */
  | { readonly kind: 'hung'; readonly reason: string };

const TEXT_BYTES_MAX = 200;

function text(value: unknown): string {
  return typeof value === 'string' ? value.slice(0, TEXT_BYTES_MAX) : 'unknown';
}

/** The event behind a QMP event, by QEMU qapi/run-state.json and qapi/block-core.json (7.2). */
export function parseGuestEvent(event: QmpEvent): GuestEvent | undefined {
  const { data } = event;
  switch (event.name) {
    case 'SHUTDOWN':
      return { kind: 'shutdown', byGuest: data['guest'] === true, reason: text(data['reason']) };
    case 'RESET':
      return { kind: 'reset', byGuest: data['guest'] === true, reason: text(data['reason']) };
    case 'GUEST_PANICKED':
      return { kind: 'panic' };
    case 'WATCHDOG':
      return { kind: 'watchdog', action: text(data['action']) };
    case 'BLOCK_IO_ERROR':
      return {
        kind: 'disk-error',
        device: text(data['node-name'] ?? data['device']),
        operation: text(data['operation']),
      };
    case 'STOP':
      return { kind: 'stopped' };
    case 'RESUME':
      return { kind: 'resumed' };
    default:
      return undefined;
  }
}
