/** A guest of which both hosts have one image can move, and not be followed. */
import type { Configuration } from '../config/index.js';
import { type Guest, sharedDisks } from '../guest/index.js';
import type { Logger } from '../lib/index.js';

/** Why no secondary can follow this guest, also told to the log; undefined: one can. */
export function whyUnprotectable({
  configuration,
  guest,
  log,
}: {
  readonly configuration: Configuration;
  readonly guest: Pick<Guest, 'definition'>;
  readonly log: Logger;
}): string | undefined {
  const shared = sharedDisks(configuration, guest.definition.disks);
  if (shared.length === 0) return undefined;
  const disks = shared.map(({ name }) => name).join(', ');
  const reason =
    `The guest has no secondary, as its disks are shared (${disks}): a secondary needs an image ` +
    'of its own; without shared=on on both hosts it gets one';
  log.warn('No secondary is looked for', { reason });
  return reason;
}
