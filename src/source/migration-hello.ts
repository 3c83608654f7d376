/** The hello of a migration, but for what is as of the moment when it is sent. */
import { type Configuration, type MigrateOptions, nicConnection } from '../config/index.js';
import { type Guest, sharedDisks } from '../guest/index.js';
import { PAGE_SIZE_BYTES } from '../lib/index.js';
import type { HelloSection } from '../migration/index.js';

export function migrationHello(
  migration: string,
  {
    configuration,
    guest,
    wish,
  }: { configuration: Configuration; guest: Guest; wish: MigrateOptions },
): HelloSection {
  const { definition, emulator } = guest;
  const { qemuVersion, accelerator, machineType } = emulator.description;
  const { method, background, compress } = wish;
  const shared = new Set(sharedDisks(configuration, definition.disks).map(({ name }) => name));
  return {
    kind: 'hello',
    migration,
    vm: configuration.vm,
    host: configuration.host,
    qemuVersion,
    machineType,
    cpuModel: definition.cpuModel,
    accelerator,
    pageSizeBytes: PAGE_SIZE_BYTES,
    ramSizeBytes: emulator.ram.sizeBytes,
    choices: {
      mode: method,
      background,
      compression: compress === 'off' ? 'none' : 'lz4',
      assisted: true,
    },
    disks: definition.disks.map(({ name, sizeBytes, readOnly }) => {
      return { name, sizeBytes, place: shared.has(name) ? 'shared' : 'moved', readOnly };
    }),
    nics: definition.nics.map(({ name, mac }) => {
      const { bridge, tap } = nicConnection(configuration, name);
      return { mac, bridge: bridge ?? tap };
    }),
    definitionJson: '',
  };
}
