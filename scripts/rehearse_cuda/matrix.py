def rehearse_matrix(*a):
    raise SystemExit
