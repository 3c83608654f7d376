/** The thread of the lane's source end. */
import type { RamHandle } from '../../emulator/index.js';
import { assert } from '../../lib/index.js';
import { setUrgent } from '../../linux/index.js';
import {
  type HandedLink,
  HandedLinks,
  type LinkCalls,
  type LinkNotices,
} from '../../replication/index.js';
import { serveWorker } from '../../transport/index.js';
import { FaultSourceLane } from './fault-source-lane-shell.js';
import { Rehearsal } from './rehearsal-shell.js';

export interface FaultSourceCalls extends LinkCalls {
  start(ram: RamHandle): void;
  /** The link of another session. */
  attach(link: HandedLink): void;
  /** RAM does not change any more: what is demanded is sent. */
  begin(): void;
  /** After the answer RAM is not read any more. */
  stop(): void;
}

serveWorker<FaultSourceCalls, LinkNotices>((main) => {
  const links = new HandedLinks(main);
  const rehearsal = new Rehearsal(main.log);
  let lane: FaultSourceLane | undefined;
  const started = (): FaultSourceLane => {
    assert(lane !== undefined, 'The fault lane is not started');
    return lane;
  };
  return {
    start(ram) {
      rehearsal.end();
      lane = new FaultSourceLane(ram);
    },
    attach: (link) => started().attach(links.take(link)),
    begin() {
      setUrgent(true);
      started().begin();
    },
    stop() {
      started().stop();
      setUrgent(false);
    },
    ...links.calls,
  };
});
