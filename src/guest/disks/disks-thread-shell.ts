/** Entry of the disk thread: its door; all it does is in guest-disks-shell.ts. */
import type { EpochTotals, Lineage, PrimaryImage } from '../../blockrep/index.js';
import { setShortSlice } from '../../linux/index.js';
import {
  type HandedLink,
  HandedLinks,
  type LinkCalls,
  type LinkNotices,
} from '../../replication/index.js';
import { serveWorker } from '../../transport/index.js';
import type { VerifyReport } from './disk-verification-shell.js';
import {
  DiskStacks,
  type DisksEvents,
  type DisksFigures,
  type DisksSettings,
  type SourceBeginning,
  type StartedDisks,
} from './guest-disks-shell.js';
import { STATS_INTERVAL_MS } from './limits.js';

/** What the main thread may ask; see DiskStacks. */
export interface DisksCalls extends LinkCalls {
  start(settings: DisksSettings): Promise<StartedDisks>;
  stop(): Promise<void>;
  beginAlone(): Promise<void>;
  images(): PrimaryImage[];
  attachSource(link: HandedLink, beginning: SourceBeginning): Promise<void>;
  attachTarget(link: HandedLink, lineages: readonly Lineage[]): void;
  detach(): Promise<void>;
  syncRound(): Promise<number>;
  syncStored(): Promise<void>;
  beginPause(): void;
  edge(epoch: number): Promise<EpochTotals[]>;
  endPause(): Promise<void>;
  flushShared(): Promise<void>;
  leaveShared(): Promise<void>;
  enterSharedAgain(): Promise<void>;
  changedShared(): Promise<string[]>;
  committed(epoch: number): void;
  verify(index: number, options: { repair: boolean }): Promise<VerifyReport>;
  commit(epoch: number): void;
  apply(epoch: number): Promise<void>;
  begin(epoch: number | undefined): Promise<void>;
  dropUncommitted(): Promise<void>;
  promote(): Promise<void>;
}

/** What the main thread is told. */
export interface DisksNotices extends DisksEvents, LinkNotices {
  figures(figures: DisksFigures): void;
}

serveWorker<DisksCalls, DisksNotices>((main) => {
  const links = new HandedLinks(main);
  const stacks = new DiskStacks(main.log, {
    overBound: (epoch) => main.notify('overBound', epoch),
    staged: (staged) => main.notify('staged', staged),
    unfit: (reason) => main.notify('unfit', reason),
  });
  let timer: NodeJS.Timeout | undefined;
  return {
    async start(settings) {
      setShortSlice();
      const started = await stacks.start(settings);
      timer = setInterval(() => {
        main.notify('figures', stacks.figures);
        links.report();
      }, STATS_INTERVAL_MS);
      return started;
    },
    stop() {
      clearInterval(timer);
      return stacks.stop();
    },
    beginAlone: () => stacks.beginAlone(),
    images: () => stacks.images(),
    attachSource: (link, beginning) => stacks.attachSource(links.take(link), beginning),
    attachTarget: (link, lineages) => stacks.attachTarget(links.take(link), lineages),
    ...links.calls,
    detach: () => stacks.detach(),
    syncRound: () => stacks.syncRound(),
    syncStored: () => stacks.syncStored(),
    beginPause: () => stacks.beginPause(),
    edge: (epoch) => stacks.edge(epoch),
    endPause: () => stacks.endPause(),
    flushShared: () => stacks.flushShared(),
    leaveShared: () => stacks.leaveShared(),
    enterSharedAgain: () => stacks.enterSharedAgain(),
    changedShared: () => stacks.changedShared(),
    committed: (epoch) => stacks.committed(epoch),
    verify: (index, options) => stacks.verify(index, options),
    commit: (epoch) => stacks.commit(epoch),
    apply: (epoch) => stacks.apply(epoch),
    begin: (epoch) => stacks.begin(epoch),
    dropUncommitted: () => stacks.dropUncommitted(),
    promote: () => stacks.promote(),
  };
});
