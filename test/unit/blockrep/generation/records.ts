/** Records of two hosts for the tests of generations. */
import {
  beginAlone,
  beginFirst,
  type GenerationRecord,
  type ImageIdentity,
  lineageOf,
  standbyAt,
} from '../../../../src/blockrep/generation/record.js';

export const BOOT = '11111111-2222-4333-8444-555555555555';
export const OTHER_BOOT = '99999999-2222-4333-8444-555555555555';
export const IMAGE: ImageIdentity = {
  kind: 'file',
  device: '2049',
  inode: '77',
  modifiedNs: '1700000000123456789',
};
export const ORIGIN = { vm: 'web', disk: 'root', sizeBytes: 2 ** 20, image: IMAGE, bootId: BOOT };

/** A generation's name; the number is what the tests know it by. */
export function generation(number: number): string {
  return `${String(number).padStart(8, '0')}-aaaa-4bbb-8ccc-dddddddddddd`;
}

export function at(hour: number): string {
  return `2026-03-01T${String(hour % 24).padStart(2, '0')}:00:00.000Z`;
}

/** The first generation of a host. */
export function first(number: number, epoch = 0, host = 'anna'): GenerationRecord {
  const next = { generation: generation(number), host, at: at(number) };
  return { ...beginFirst(ORIGIN, next), epoch };
}

/** The same host goes on alone, or is promoted. */
export function alone(
  record: GenerationRecord,
  number: number,
  options: { epoch?: number; host?: string; exact?: boolean } = {},
): GenerationRecord {
  const { epoch = 0, host = record.host, exact = true } = options;
  const next = { generation: generation(number), host, at: at(number), exact };
  return { ...beginAlone(record, next), epoch };
}

/** A host that stands by at an epoch of another one's generation. */
export function standby(of: GenerationRecord, epoch: number): GenerationRecord {
  return standbyAt(first(90), lineageOf(of), epoch);
}
