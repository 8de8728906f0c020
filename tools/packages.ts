import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The repository's root, without a slash at the end. */
export const root = fileURLToPath(new URL('..', import.meta.url)).replace(/\/$/, '')

/** Something that can be imported from a package: each is a page of the documentation and a report of the public API. */
export interface EntryPoint {
  /** What one writes after `import`: `@node-vmm/vring/driver`. */
  readonly name: string
  /** The source, an absolute path. */
  readonly source: string
  /** The built declarations, an absolute path. */
  readonly types: string
}

/** The folders below `packages`, in the alphabet's order. */
export function packages (): string[] {
  return readdirSync(join(root, 'packages')).filter((name) => existsSync(join(root, 'packages', name, 'package.json'))).sort()
}

/** What can be imported from a package: first the package itself. */
export function entryPoints (folder: string): EntryPoint[] {
  const directory = join(root, 'packages', folder)
  const { name, exports } = JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8'))
  return Object.entries<Record<string, string>>(exports).filter(([, target]) => target.types !== undefined).map(([path, target]) => ({
    name: join(name, path),
    source: join(directory, target['@node-vmm/source']!),
    types: join(directory, target.types!)
  }))
}
