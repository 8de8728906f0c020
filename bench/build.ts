import { build } from 'esbuild'
import { join } from 'node:path'
import { root } from '../tools/packages.ts'

/** What people run, in a checkout that is set up. */
export const PROGRAM = 'packages/vhost-user-blk/dist/cli.js'

const programs = ['load', 'null-engine', 'plain-server', 'serve-many'] as const

/** The JavaScript of a program here, or of the same in another checkout. */
export function built (program: typeof programs[number], checkout = root): string {
  return join(checkout, 'bench/dist', `${program}.js`)
}

/** Makes JavaScript of the programs whose processes are measured: a loader of TypeScript would be in their memory. */
export async function buildPrograms (checkout: string): Promise<void> {
  await build({
    entryPoints: programs.map((program) => join(checkout, 'bench', `${program}.ts`)),
    outdir: join(checkout, 'bench/dist'),
    bundle: true, packages: 'external', platform: 'node', format: 'esm', target: 'node20', sourcemap: 'inline', logLevel: 'warning'
  })
}
