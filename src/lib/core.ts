/**
 * The shape of every state machine here (STYLE section 2): inputs and time come in, instructions
 * come out in the order in which they must be carried out. `step` never awaits, never reads a clock
 * and never throws for what a peer did.
 */
export interface Core<In, Out> {
  step(input: In, nowUs: number): Out[];
  /** When the shell must next send `{ kind: 'tick' }`; undefined while nothing is due. */
  deadlineUs(): number | undefined;
}
