// The demo page. The access token lives in this closure and nowhere else; the refresh token is a cookie no script reads.
(() => {
  'use strict'
  const $ = (id) => document.getElementById(id)
  const reasons = {
    logout: 'You logged out.', revoked: 'This session was ended from another device.',
    reuse_detected: 'Somebody else used a copy of your cookie. The session was ended for both of you.',
    inactivity: 'Nobody was active for too long.', absolute: 'The session reached its end; log in again.',
    password_changed: 'The password was changed.', user_disabled: 'This user is disabled.', evicted: 'Too many sessions.',
  }
  let token = null, current = null, expiresAt = 0, seen = 0, flight = null, epoch = 0, thiefUntil = 0, facts = {}

  const element = (name, className, ...children) => {
    const made = document.createElement(name)
    if (className) made.className = className
    made.append(...children)
    return made
  }
  const clock = (seconds) => element('time', '', new Date(seconds * 1000).toLocaleTimeString())
  const span = (seconds) => seconds > 172800 ? `${Math.round(seconds / 86400)} days`
    : seconds > 7200 ? `${Math.round(seconds / 3600)} hours` : `${Math.round(seconds / 60)} minutes`

  async function call(method, path, { body, bearer = false, quiet = false } = {}) {
    const headers = { 'X-Keyturn': '1' }
    if (body) headers['Content-Type'] = 'application/json'
    if (bearer && token) headers.Authorization = `Bearer ${token}`
    let status = 0, data = null
    try {
      // keepalive: a refresh in flight survives a reload, and so does the cookie it brings.
      const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), keepalive: method !== 'GET',
        cache: 'no-store', redirect: 'error', credentials: 'same-origin' })
      status = answer.status
      data = await answer.json().catch(() => null)
    } catch { data = { code: 'network', title: 'No answer' } }
    if (!quiet) showAnswer(method, path, status, data)
    return { ok: status >= 200 && status < 300, status, data }
  }

  function showAnswer(method, path, status, data) {
    const shown = data && data.access_token ? { ...data, access_token: `${data.access_token.slice(0, 12)}… (shortened here)` } : data
    const line = element('li', '', clock(Date.now() / 1000), ` ${method} ${path} `,
      element('span', `tag ${status >= 200 && status < 300 ? 'good' : 'bad'}`, String(status || 'no answer')))
    if (shown) line.append(element('br'), element('code', '', JSON.stringify(shown).replaceAll(/([{,])"/g, '$1 "')))
    $('answers').prepend(line)
    while ($('answers').children.length > 40) $('answers').lastChild.remove()
  }

  function adopt(data) {
    token = data.access_token
    current = data.session.id
    expiresAt = performance.now() + data.expires_in * 1000
    $('life').max = data.expires_in
    $('inactivity').textContent = span(data.session.inactivity_expires_in)
    $('absolute').textContent = span(data.session.absolute_expires_in)
    $('who').textContent = `Signed in as ${data.user.email}`
    $('password').elements.username.value = data.user.email
    if ($('session').hidden) { $('outcome').textContent = 'opened'; $('generation').textContent = '–' }
    show(true)
  }

  function signedOut(reason) {
    epoch += 1
    token = current = null
    thiefUntil = 0
    $('thief').disabled = false
    $('who').textContent = 'Not signed in'
    $('ended').hidden = !reason
    $('ended').textContent = reason ? `${reasons[reason] || 'The session has ended.'} (${reason})` : ''
    show(false)
  }
  function show(signedIn) {
    // Whoever works by keyboard goes on where the page goes on.
    const leaving = $(signedIn ? 'anonymous' : 'session')
    const move = leaving.contains(document.activeElement)
    $('session').hidden = !signedIn
    $('anonymous').hidden = signedIn
    if (move) (signedIn ? $('refresh') : $('credentials').elements.email).focus()
  }

  function refresh() {
    flight ??= (async () => {
      const started = epoch
      const { ok, status, data } = await call('POST', '/auth/refresh', { body: { idle_seconds: 0 } })
      if (started === epoch) {
        if (ok) adopt(data)
        else if (status === 401 && data?.code !== 'session_behind') signedOut(data?.reason)
      }
      await decisions()
      return ok
    })().finally(() => { flight = null })
    return flight
  }

  async function withToken(method, path, body) {
    if (performance.now() > expiresAt - 1000 && !(await refresh())) return { ok: false }
    let result = await call(method, path, { body, bearer: true })
    if (result.status === 401 && result.data?.code === 'invalid_token' && await refresh()) result = await call(method, path, { body, bearer: true })
    await decisions()
    return result
  }

  async function decisions() {
    const { ok, data } = await call('GET', `/demo/decisions?after=${seen}`, { quiet: true })
    if (!ok) return
    facts = data
    for (const at of document.querySelectorAll('[data-fact]')) at.textContent = data[at.dataset.fact]
    for (const row of data.decisions) {
      if (row.number <= seen) continue
      seen = row.number
      $('no-decisions').hidden = true
      const bad = /refused|reuse|ended|drift|throttled/.test(row.event)
      const line = element('li', row.who === 'thief' ? 'thief' : '', clock(row.at), ` ${row.who === 'thief' ? 'the thief' : 'you'} `,
        element('span', `tag ${bad ? 'bad' : 'good'}`, row.outcome || row.event))
      if (row.outcome) line.append(` ${row.event}`)
      if (row.generation) line.append(` · generation ${row.generation}`)
      if (row.reason) line.append(` · ${row.reason}`)
      line.append(element('br'), row.text)
      $('decisions').prepend(line)
      if (row.event === 'refreshed' && row.who === 'you') { $('outcome').textContent = row.outcome; $('generation').textContent = row.generation }
    }
  }

  async function devices() {
    if (!token) return
    const { ok, data } = await withToken('GET', '/auth/sessions')
    if (!ok) return
    $('devices').replaceChildren(...data.sessions.map((session) => {
      const name = element('span', '', session.device_name ? `${session.device_name} (${session.device})` : session.device)
      if (session.current) name.append(' ', element('span', 'tag good', 'this device'))
      name.append(element('small', '', `${session.ip} · since ${new Date(session.created_at).toLocaleString()}`))
      const end = element('button', '', 'End')
      end.setAttribute('aria-label', `End the session on ${session.device}${session.current ? ', this device' : ''}`)
      end.addEventListener('click', () => busy(end, async () => {
        const { ok: ended } = await withToken('DELETE', `/auth/sessions/${session.id}`)
        if (ended && session.current) signedOut('logout')
        else await devices()
      }))
      return element('li', '', name, end)
    }))
  }

  async function busy(button, work) {
    button.disabled = true
    try { await work() } finally { button.disabled = false }
  }
  const on = (id, work) => $(id).addEventListener('click', () => busy($(id), work))

  $('credentials').addEventListener('submit', (event) => {
    event.preventDefault()
    const form = event.target.elements
    const body = { email: form.email.value, password: form.password.value, remember: form.remember.checked }
    if (form.device_name.value) body.device_name = form.device_name.value
    const path = `/auth/${event.submitter?.value === 'signup' ? 'signup' : 'login'}`
    busy(event.submitter ?? event.target, async () => {
      const { ok, data } = await call('POST', path, { body })
      $('ended').hidden = ok
      $('ended').textContent = ok ? '' : `${data?.title ?? 'It did not work'}${data?.detail ? `: ${data.detail}` : ''} (${data?.code})`
      if (ok) { event.target.reset(); adopt(data); await devices() }
      await decisions()
    })
  })
  $('password').addEventListener('submit', (event) => {
    event.preventDefault()
    const { current_password, new_password } = event.target.elements
    busy(event.submitter ?? event.target, async () => {
      const { ok } = await withToken('POST', '/auth/password', { current_password: current_password.value, new_password: new_password.value })
      if (ok) { event.target.reset(); await devices() }
    })
  })
  const logout = async (body) => {
    epoch += 1
    const { ok } = await call('POST', '/auth/logout', { body })
    if (ok) signedOut('logout')
    await decisions()
  }
  on('refresh', async () => { if (await refresh()) await devices() })
  on('me', () => withToken('GET', '/auth/me'))
  on('logout', () => logout())
  on('logout-everywhere', () => logout({ everywhere: true }))
  on('end-others', async () => { await withToken('DELETE', '/auth/sessions'); await devices() })
  on('thief', async () => {
    const { ok } = await call('POST', '/demo/thief')
    if (ok) thiefUntil = performance.now() + facts.settle_time * 12000
    await decisions()
  })

  setInterval(() => {
    if (!token) return
    const left = Math.max(0, (expiresAt - performance.now()) / 1000)
    $('life').value = left
    $('countdown').textContent = left > 0 ? `${Math.ceil(left)} s` : 'expired; the next call refreshes'
  }, 250)
  setInterval(() => { if (token && !document.hidden) decisions() }, 1500)
  // While the thief is at work, this page goes on as an ordinary application does: a refresh now and then.
  setInterval(() => { if (token && performance.now() < thiefUntil) refresh() }, 3000)

  decisions().then(async () => {
    if (document.cookie.split('; ').includes('kt_hint=1')) { if (await refresh()) await devices() } else signedOut()
  })
})()
