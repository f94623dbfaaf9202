"""What a stranger's program may print, and the host a stranger's browser names."""

HOSTILE = "<img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>"
PROXY = "coder.example.com"
