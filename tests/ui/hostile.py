"""Hostile output of a hook or an agent, and the host of a proxy."""

HOSTILE = "<img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>"
PROXY = "coder.example.com"
