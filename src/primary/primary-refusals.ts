/** What a primary answers to a command that makes no sense as things are. */

const refusal = (code: string, reason: string) => ({ ok: false, code, reason }) as const;

export const NOT_PROTECTED = refusal(
  'COLO_E_FAILOVER',
  'The guest is not protected: nobody could go on with it',
);
export const NOT_COMPARED = refusal(
  'COLO_E_MODE',
  'Nothing is compared in mode checkpoint: captures need mode colo',
);
export const NO_SECONDARY = refusal('COLO_E_VERIFY', 'No secondary is connected');
export const NOT_MOVABLE = refusal(
  'COLO_E_MIGRATE',
  'A guest that has a secondary is not moved: run "colo detach" first',
);
