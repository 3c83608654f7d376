/**
 * How QEMU takes a disk along with its own migration, as libvirt has it do: the destination serves
 * its image by NBD, a job of the source mirrors the disk into it while the guest runs; the
 * migration stops before its switchover, the mirror ends there, and the destination takes the image
 * back.
 */
import type { QmpClient } from '../../src/emulator/index.js';

const NODE = 'disk';
const MIRROR = 'mirror';
const JOB = 'move-disk';

export interface MirrorEnds {
  readonly source: QmpClient;
  readonly destination: QmpClient;
  /** Where the destination can be reached. */
  readonly host: string;
  readonly port: number;
}

/** Of both ends, besides others; they stop the migration and tell when it has stopped. */
export const MIRROR_CAPABILITIES = ['events', 'pause-before-switchover'] as const;

/** The disk is the same at both ends, and stays so, when it resolves. */
export async function beginMirror({ source, destination, host, port }: MirrorEnds): Promise<void> {
  const server = { host, port: String(port) };
  await destination.execute('nbd-server-start', { addr: { type: 'inet', data: server } });
  await destination.execute('block-export-add', {
    ...{ type: 'nbd', id: NODE, 'node-name': NODE, name: NODE, writable: true },
  });
  await source.execute('blockdev-add', {
    ...{ driver: 'nbd', 'node-name': MIRROR, export: NODE, server: { type: 'inet', ...server } },
  });
  await source.executeUntil(
    'blockdev-mirror',
    { 'job-id': JOB, device: NODE, target: MIRROR, sync: 'full' },
    ({ name }) => name === 'BLOCK_JOB_READY',
  );
}

/** Ends it when the guest stands before the switchover; the migration goes on then. */
export async function endMirror({ source, destination }: MirrorEnds): Promise<void> {
  await new Promise<void>((resolve) => {
    source.onEvent(({ name, data }) => {
      if (name === 'MIGRATION' && data['status'] === 'pre-switchover') resolve();
    });
  });
  await source.executeUntil('block-job-cancel', { device: JOB }, ({ name, data }) => {
    return name === 'BLOCK_JOB_COMPLETED' && data['device'] === JOB;
  });
  await source.execute('blockdev-del', { 'node-name': MIRROR });
  await destination.execute('nbd-server-stop');
  await source.execute('migrate-continue', { state: 'pre-switchover' });
}
