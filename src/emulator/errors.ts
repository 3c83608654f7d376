import { ColoError } from '../lib/index.js';

/** QEMU refused, failed, died or kept silent. The text is QEMU's own where it gave one. */
export class QemuError extends ColoError {
  constructor(message: string, options?: { cause?: unknown }) {
    super('COLO_E_QEMU', message, options);
  }
}
