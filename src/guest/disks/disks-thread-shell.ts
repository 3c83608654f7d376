/** Entry of the disk thread: its door; all it does is in guest-disks-shell.ts. */
import type { EpochTotals } from '../../blockrep/index.js';
import { type HandedLink, HandedLinks } from '../../replication/index.js';
import { type LinkReport, serveWorker } from '../../transport/index.js';
import {
  DiskStacks,
  type DisksEvents,
  type DisksFigures,
  type DisksSettings,
  type StartedDisks,
} from './guest-disks-shell.js';
import { STATS_INTERVAL_MS } from './limits.js';

/** What the main thread may ask; see DiskStacks. */
export interface DisksCalls {
  start(settings: DisksSettings): Promise<StartedDisks>;
  stop(): Promise<void>;
  attachSource(link: HandedLink, epoch: number): void;
  attachTarget(link: HandedLink): void;
  closeLink(serial: number): void;
  destroyLink(serial: number): void;
  detach(): Promise<void>;
  startTracking(): number;
  syncRound(): Promise<number>;
  beginPause(): void;
  edge(epoch: number): Promise<EpochTotals[]>;
  endPause(): Promise<void>;
  commit(epoch: number): void;
  apply(epoch: number): Promise<void>;
  dropUncommitted(): Promise<void>;
  promote(): Promise<void>;
}

/** What the main thread is told. */
export interface DisksNotices extends DisksEvents {
  linkReport(serial: number, report: LinkReport): void;
  figures(figures: DisksFigures): void;
}

serveWorker<DisksCalls, DisksNotices>((main) => {
  const links = new HandedLinks(main.log, (serial, report) =>
    main.notify('linkReport', serial, report),
  );
  const stacks = new DiskStacks(main.log, {
    overBound: (epoch) => main.notify('overBound', epoch),
    syncProgress: (doneBytes) => main.notify('syncProgress', doneBytes),
    staged: (staged) => main.notify('staged', staged),
    unfit: (reason) => main.notify('unfit', reason),
  });
  let timer: NodeJS.Timeout | undefined;
  return {
    async start(settings) {
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
    attachSource: (link, epoch) => stacks.attachSource(links.take(link), epoch),
    attachTarget: (link) => stacks.attachTarget(links.take(link)),
    closeLink: (serial) => links.close(serial),
    destroyLink: (serial) => links.destroy(serial),
    detach: () => stacks.detach(),
    startTracking: () => stacks.startTracking(),
    syncRound: () => stacks.syncRound(),
    beginPause: () => stacks.beginPause(),
    edge: (epoch) => stacks.edge(epoch),
    endPause: () => stacks.endPause(),
    commit: (epoch) => stacks.commit(epoch),
    apply: (epoch) => stacks.apply(epoch),
    dropUncommitted: () => stacks.dropUncommitted(),
    promote: () => stacks.promote(),
  };
});
