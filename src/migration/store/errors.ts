import { ColoError } from '../../lib/index.js';

/** A backup file can't be used: what is wrong with it, and where. `cause` if the system said so. */
export class BackupError extends ColoError {
  constructor(message: string, options?: { cause?: unknown }) {
    super('COLO_E_BACKUP', message, options);
  }
}

/** A kept RAM image can't be used; the guest moves without it. */
export class RamImageError extends ColoError {
  constructor(message: string, options?: { cause?: unknown }) {
    super('COLO_E_RAM_IMAGE', message, options);
  }
}
