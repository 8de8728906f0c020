// What npm users get: the packed tarballs are checked by publint and attw, then installed in an empty project and used.
import { equal, match, ok } from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import { pnpm, root } from '../../tools/pnpm.mjs'

const packages = readdirSync(join(root, 'packages'))
const directory = mkdtempSync(join(tmpdir(), 'node-vmm-packaging-'))
const project = join(directory, 'project')
const test = suite('packaging')

test.before(() => {
  pnpm(['-r', '--filter=./packages/*', 'pack', '--pack-destination', directory])
})

test.after(() => rmSync(directory, { recursive: true }))

function tarball (name: string): string {
  const { version } = JSON.parse(readFileSync(join(root, 'packages', name, 'package.json'), 'utf8'))
  return join(directory, `node-vmm-${name}-${version}.tgz`)
}

function run (command: string, args: string[], cwd = root): string {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd, encoding: 'utf8', timeout: 240_000 })
  equal(status, 0, `${command} ${args.join(' ')}:\n${stdout}\n${stderr}`)
  return stdout
}

for (const name of packages) {
  test(`${name}: publint and attw are content`, () => {
    run(process.execPath, [join(root, 'node_modules/publint/src/cli.js'), 'run', tarball(name), '--strict'])
    run(process.execPath, [join(root, 'node_modules/@arethetypeswrong/cli/dist/index.js'), '--profile', 'esm-only', tarball(name)])
  })

  test(`${name}: the tarball has what a reader needs`, () => {
    const files = run('tar', ['-tzf', tarball(name)]).split('\n')
    for (const file of ['README.md', 'CHANGELOG.md', 'LICENSE', 'dist/index.js', 'dist/index.d.ts', 'src/index.ts']) {
      ok(files.includes(`package/${file}`), `${file} is missing`)
    }
  })
}

test('the tarballs work in an empty project', () => {
  cpSync(join(root, 'test/packaging/project'), project, { recursive: true })
  writeFileSync(join(project, 'package.json'), JSON.stringify({ name: 'consumer', private: true, type: 'module' }))
  run('npm', ['install', '--no-audit', '--no-fund', ...packages.map(tarball)], project)
  match(run(process.execPath, ['consumer.js'], project), /^read back: 4096 bytes, serial consumer$/m)
  match(run(process.execPath, ['require.cjs'], project), /^all \d+ packages can be required$/m)
  match(run(join(project, 'node_modules/.bin/vhost-user-blk'), ['--version'], project), /^\d+\.\d+\.\d+\n$/)
})

test.run()
