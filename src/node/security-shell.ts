/**
 * What protects the links of this node, for as long as the node lives: loaded once at its start;
 * an end of a certificate that comes near is told in the log once a day, and in the status.
 */
import {
  type CertificateStatus,
  EXPIRY_WARNING_DAYS,
  loadLinkSecurity,
  type SecurityPlace,
  type SecurityStatus,
} from '../config/index.js';
import type { Logger } from '../lib/index.js';
import type { CertificateFacts, LinkSecurity } from '../transport/index.js';
import { EXPIRY_LOOK_MS } from './limits.js';

const DAY_MS = 24 * 3600 * 1000;

export class NodeSecurity {
  /** For every link and listener of this node. */
  readonly links: LinkSecurity;
  readonly #own: CertificateFacts | undefined;
  readonly #log: Logger;
  readonly #now: () => number;
  readonly #timer: NodeJS.Timeout;
  /** Of the last peer that a session was made with. */
  #peer: CertificateFacts | undefined;

  /** Throws OperatorError when the files are not as they must be. `now`: ms since 1970. */
  constructor(place: SecurityPlace, log: Logger, now: () => number = Date.now) {
    const { links, certificate, warnings } = loadLinkSecurity(place, now());
    this.links = links;
    this.#own = certificate;
    this.#log = log;
    this.#now = now;
    for (const warning of warnings) log.warn(warning);
    this.#timer = setInterval(() => this.lookAtEnds(), EXPIRY_LOOK_MS);
    this.#timer.unref();
  }

  get status(): SecurityStatus {
    return {
      transport: this.links.kind,
      certificate: this.#statusOf(this.#own),
      peerCertificate: this.#statusOf(this.#peer),
    };
  }

  /** A session is made with the one who has shown this certificate. */
  notePeer(certificate: CertificateFacts): void {
    const isNew = certificate.fingerprint !== this.#peer?.fingerprint;
    this.#peer = certificate;
    if (isNew) this.#warn("The peer's certificate expires soon", certificate);
  }

  lookAtEnds(): void {
    this.#warn('The certificate of this host expires soon', this.#own);
    this.#warn("The peer's certificate expires soon", this.#peer);
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #warn(message: string, certificate: CertificateFacts | undefined): void {
    const status = this.#statusOf(certificate);
    if (status === null || status.daysLeft >= EXPIRY_WARNING_DAYS) return;
    const { validUntil, daysLeft } = status;
    this.#log.warn(message, { validUntil, daysLeft, advice: 'colo pki issue --renew' });
  }

  /** As of now: the agent may run for longer than a certificate. */
  #statusOf(certificate: CertificateFacts | undefined): CertificateStatus | null {
    if (certificate === undefined) return null;
    const { names, validUntil } = certificate;
    const daysLeft = Math.floor((Date.parse(validUntil) - this.#now()) / DAY_MS);
    return { names, validUntil, daysLeft };
  }
}
