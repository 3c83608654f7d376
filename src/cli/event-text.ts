/** `colo events` for people: one line an event. Pure but for the calendar. */
import type { NodeEvent } from '../config/index.js';
import { formatBytes, lastSyncText, printable } from './status-text.js';

/** Time in UTC, number, role, what, and why; with a line end. */
export function formatEvent(event: NodeEvent): string {
  const { timeUs, sequence, role, reason } = event;
  const time = new Date(timeUs / 1000).toISOString();
  const line = `${time} ${String(sequence).padStart(5)} ${role.padEnd(9)} ${what(event)}`;
  return `${printable(reason === '' ? line : `${line}: ${reason}`)}\n`;
}

function what(event: NodeEvent): string {
  switch (event.kind) {
    case 'state':
      return `state ${event.from === null ? '' : `${event.from} -> `}${event.to}`;
    case 'failover': {
      const from = event.continuedFrom === 'running' ? 'as it ran' : 'its last checkpoint';
      const down = event.downtimeMs === null ? '' : `, down ${event.downtimeMs} ms`;
      return `failover from ${from}, epoch ${event.epoch}${down}`;
    }
    case 'checkpoint-failed':
      return `checkpoint of epoch ${event.epoch} failed`;
    case 'resync': {
      const { doneBytes, totalBytes } = event;
      const sent =
        totalBytes === 0 ? '' : `, ${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`;
      const came = event.synced === undefined ? '' : `, ${lastSyncText(event.synced)}`;
      return `resync ${event.step}${sent}${came}`;
    }
    case 'witness':
    case 'peer':
      return `${event.kind} ${event.state}`;
    case 'guest':
      return `guest ${event.what}`;
    case 'operator':
      return `operator ${event.command}`;
    case 'disk':
    case 'lost':
      return event.kind;
  }
}
