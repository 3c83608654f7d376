/** What is to be done with the first held frame of a flow. */
export const HOLD = 0;
export const RELEASE = 1;
export const MISMATCH = 2;
export type Judgement = typeof HOLD | typeof RELEASE | typeof MISMATCH;
