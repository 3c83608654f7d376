/** Entry of the secondary's network thread: its door; all it does is in secondary-network-shell.ts. */
import type { GuestPortFds } from '../linux/index.js';
import { type HandedLink, HandedLinks } from '../replication/index.js';
import { type LinkReport, serveWorker } from '../transport/index.js';
import { STATS_INTERVAL_MS } from './limits.js';
import {
  type NetworkStats,
  SecondaryNetwork,
  type SecondaryNetworkOptions,
} from './secondary-network-shell.js';

/** What the thread is started with. */
export type NetworkSettings = Omit<SecondaryNetworkOptions, 'log'>;

/** What the main thread may ask; see SecondaryNetwork. */
export interface NetworkCalls {
  start(settings: NetworkSettings): Promise<GuestPortFds[]>;
  closeQemuFds(): void;
  stop(): Promise<void>;
  attach(link: HandedLink): void;
  closeLink(serial: number): void;
  destroyLink(serial: number): void;
  detach(): void;
  quiesce(): Promise<void>;
  drain(): boolean;
  rewind(): void;
  run(epoch: number): void;
  committed(epoch: number): void;
  promote(): void;
  goLive(options: { announce: boolean }): void;
}

/** What the main thread is told. */
export interface NetworkNotices {
  linkReport(serial: number, report: LinkReport): void;
  stats(stats: NetworkStats): void;
}

serveWorker<NetworkCalls, NetworkNotices>((main) => {
  const links = new HandedLinks(main.log, (serial, report) =>
    main.notify('linkReport', serial, report),
  );
  let network: SecondaryNetwork | undefined;
  let timer: NodeJS.Timeout | undefined;
  const started = (): SecondaryNetwork => {
    if (network === undefined) throw new Error('The network is not started');
    return network;
  };
  return {
    async start(settings) {
      network = new SecondaryNetwork({ ...settings, log: main.log });
      const fds = await network.start();
      timer = setInterval(() => {
        main.notify('stats', started().stats);
        links.report();
      }, STATS_INTERVAL_MS);
      return fds;
    },
    closeQemuFds: () => started().closeQemuFds(),
    async stop() {
      clearInterval(timer);
      await network?.stop();
    },
    attach: (link) => started().attach(links.take(link)),
    closeLink: (serial) => links.close(serial),
    destroyLink: (serial) => links.destroy(serial),
    detach: () => started().detach(),
    quiesce: () => started().quiesce(),
    drain: () => started().drain(),
    rewind: () => started().rewind(),
    run: (epoch) => started().run(epoch),
    committed: (epoch) => started().committed(epoch),
    promote: () => started().promote(),
    goLive: (options) => started().goLive(options),
  };
});
