import { CompilerState, Extractor, ExtractorConfig, ExtractorLogLevel } from '@microsoft/api-extractor'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { type EntryPoint, entryPoints, packages, root } from '../tools/packages.ts'

/** What the test says, and `CONTRIBUTING.md`. */
export const COMMAND = 'npm run api'

/** The file of a report: `vring.driver.api.md` for `@node-vmm/vring/driver`. */
export function reportName ({ name }: EntryPoint): string {
  return `${name.slice(name.indexOf('/') + 1).replaceAll('/', '.')}.api.md`
}

/** Writes a report of the built declarations of everything that can be imported into a folder; returns their names. */
export function writeReports (folder: string): string[] {
  const entries = packages().flatMap(entryPoints).filter(({ types }) => existsSync(types))
  const configs = entries.map((entry) => configOf(entry, folder))
  // One compilation for all of them.
  const compilerState = CompilerState.create(configs[0]!, { additionalEntryPoints: entries.map(({ types }) => types) })
  for (const config of configs) {
    Extractor.invoke(config, { localBuild: true, compilerState, messageCallback: (message) => { message.handled = true } })
  }
  return entries.map(reportName)
}

function configOf (entry: EntryPoint, folder: string): ExtractorConfig {
  return ExtractorConfig.prepare({
    configObjectFullPath: undefined,
    packageJsonFullPath: join(packageFolder(entry), 'package.json'),
    configObject: {
      projectFolder: packageFolder(entry),
      mainEntryPointFilePath: entry.types,
      newlineKind: 'lf',
      compiler: {
        overrideTsconfig: {
          extends: join(root, 'tsconfig.json'),
          // The declarations as users have them: siblings by their built declarations too.
          compilerOptions: { customConditions: [], allowImportingTsExtensions: false, noEmit: false },
          files: [entry.types]
        }
      },
      apiReport: { enabled: true, reportFolder: folder, reportTempFolder: join(root, 'node_modules/.cache/api'), reportFileName: reportName(entry) },
      docModel: { enabled: false },
      dtsRollup: { enabled: false },
      tsdocMetadata: { enabled: false },
      messages: {
        extractorMessageReporting: {
          // Everything that is exported is public.
          'ae-missing-release-tag': { logLevel: ExtractorLogLevel.None }
        },
        // Comments are typedoc's to judge.
        tsdocMessageReporting: { default: { logLevel: ExtractorLogLevel.None } }
      }
    }
  })
}

function packageFolder ({ source }: EntryPoint): string {
  return source.slice(0, source.lastIndexOf('/src/'))
}
