/** What came of a command; a refusal is an answer, not an exception. */
export type CommandResult =
  | { readonly ok: true; readonly detail: string }
  | { readonly ok: false; readonly code: string; readonly reason: string };
