import type { MigrationFigures } from './migration-figures.js';

/** What came of a command; a refusal is an answer, not an exception. */
export type CommandResult =
  | {
      readonly ok: true;
      readonly detail: string;
      /** Of a guest that was moved. */
      readonly migration?: MigrationFigures;
    }
  | { readonly ok: false; readonly code: string; readonly reason: string };
