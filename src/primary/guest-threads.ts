/** What the threads of the guest tell the role that has it. */
import type { Guest } from '../guest/index.js';
import type { PrimaryInput } from './primary-core.js';

export interface ThreadListener {
  readonly input: (input: PrimaryInput) => void;
  readonly onDiskFailed: (reason: string) => void;
  readonly onThreadFailed: (name: string, error: Error) => void;
}

/** The role before is not told any more. */
export function listenToThreads({ hooks }: Pick<Guest, 'hooks'>, listener: ThreadListener): void {
  const { input, onDiskFailed, onThreadFailed } = listener;
  hooks.onDisksOverBound = (epoch) =>
    input({ kind: 'checkpointRequested', trigger: 'bound', epoch });
  hooks.onCheckpointNeeded = (trigger, epoch) =>
    input({ kind: 'checkpointRequested', trigger, epoch });
  hooks.onNetworkFailure = (error) => onThreadFailed('network', error);
  hooks.onDisksSilent = onDiskFailed;
  hooks.onDisksFailure = (error) => onThreadFailed('disk', error);
}
