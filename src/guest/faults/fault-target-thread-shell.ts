/** The thread of the lane's destination end. */
import type { LentPages } from '../../emulator/index.js';
import { assert } from '../../lib/index.js';
import { setUrgent } from '../../linux/index.js';
import { type HandedLink, HandedLinks, type LinkCalls } from '../../replication/index.js';
import { serveWorker } from '../../transport/index.js';
import {
  FaultTargetLane,
  type FaultTargetNotices,
  type FaultTargetSettings,
} from './fault-target-lane-shell.js';
import { Rehearsal } from './rehearsal-shell.js';

export interface FaultTargetCalls extends LinkCalls {
  start(settings: FaultTargetSettings): void;
  /** The link of another session: what is waited for is asked for there. */
  attach(link: HandedLink): void;
  /** QEMU is there, whose faults these are. */
  lend(lent: LentPages): void;
  /** Pages are missing from now on. `places`: else pages go to the main thread, which does it. */
  serve(options: { places: boolean }): void;
  placeHere(): void;
  /** After the answer the faults are not this thread's any more. */
  stop(): void;
}

serveWorker<FaultTargetCalls, FaultTargetNotices>((main) => {
  const links = new HandedLinks(main);
  const rehearsal = new Rehearsal(main.log);
  let lane: FaultTargetLane | undefined;
  const started = (): FaultTargetLane => {
    assert(lane !== undefined, 'The fault lane is not started');
    return lane;
  };
  return {
    start(settings) {
      rehearsal.end();
      lane = new FaultTargetLane(main, settings);
    },
    attach: (link) => started().attach(links.take(link)),
    lend: (lent) => started().lend(lent),
    serve(options) {
      setUrgent(true);
      started().serve(options);
    },
    placeHere: () => started().placeHere(),
    stop() {
      lane?.stop();
      setUrgent(false);
    },
    ...links.calls,
  };
});
