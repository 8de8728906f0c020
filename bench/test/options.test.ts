import { deepEqual, match, throws } from 'node:assert/strict'
import { test } from 'uvu'
import { root } from '../../tools/packages.ts'
import { parseOptions } from '../options.ts'
import { buildOf, findServers } from '../servers.ts'

test('a build is a checkout that is set up, and takes part once', () => {
  throws(() => parseOptions(['--build=/nowhere']), /--build takes a checkout that is set up: \/nowhere has no packages\/vhost-user-blk\/dist\/cli\.js/)
  deepEqual(parseOptions([`--build=${root}`, `--build=${root}`])?.builds, [root])
})

test('each server of ours has one of each build beside it, which is none of ours', () => {
  const { servers } = findServers(['/other'])
  const ours = servers.filter(({ side }) => side === 'ours').map(({ name }) => name)
  const builds = servers.filter(({ side }) => side === 'build')
  deepEqual(builds.map(({ name }) => name), ours.map((name) => buildOf(name, '/other')))
})

test('what a number may be is said', () => {
  for (const option of ['--rounds=0', '--seconds=x', '--image-mib=1']) throws(() => parseOptions([option]), /takes a number from/)
  throws(() => parseOptions(['--cpus=1']), /two numbers/)
  match(String(parseOptions(['--growth'])?.only), /growth/)
})

test.run()
