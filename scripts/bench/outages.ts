/** The outages of a failover as samples of the bench. Pure. */
import type { ClientReports } from '../clients/client.js';
import { lengthUs } from '../clients/continuity.js';
import type { Sample } from './rows.js';

/** Throws if the failover lost anything: an outage that broke a promise is not a figure. */
export function outageSamples(reports: ClientReports): Sample[] {
  const samples: Sample[] = [];
  for (const name of ['http', 'redis', 'stream'] as const) {
    const report = reports[name];
    if (report?.longestGap === undefined) throw new Error(`Failover: ${name} has no outage`);
    if (report.connectionsLost > 0) {
      throw new Error(`Failover: ${name} lost ${report.connectionsLost} connections`);
    }
    const value = lengthUs(report.longestGap) / 1000;
    samples.push({ name: `failover-${name}`, unit: 'ms', better: 'less', value });
  }
  if (reports.redis?.acknowledgedLost !== 0) {
    throw new Error('Failover: not all acknowledged writes were read back');
  }
  return samples;
}
